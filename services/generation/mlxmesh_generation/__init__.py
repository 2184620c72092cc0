"""The generation service: templates, tokenizing, routing and streaming."""
