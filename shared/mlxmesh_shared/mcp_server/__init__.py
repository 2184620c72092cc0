"""The mesh as an MCP server: its tools, whatever carries them.

`server` imports the official SDK, which takes a second; import it only where it is used.
"""
