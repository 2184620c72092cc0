"""Reads what a model writes: text, reasoning and tool calls. One module for each format."""
