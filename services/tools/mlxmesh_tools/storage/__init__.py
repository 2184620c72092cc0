"""MCP servers, policies and records of calls in the database."""
