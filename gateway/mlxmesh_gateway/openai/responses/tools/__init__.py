"""MCP tools of responses: the gateway calls them between generations."""
