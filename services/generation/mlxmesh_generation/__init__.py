"""Everything about text: templates, tokens, routing, streaming."""
