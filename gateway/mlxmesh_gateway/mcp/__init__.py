"""The mesh as an MCP server over HTTP: POST /mcp."""
