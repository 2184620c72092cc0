"""An MCP server with one tool whose schema allows two calls, so that any model makes one."""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

SCHEMA = {
    "type": "object",
    "properties": {"side": {"enum": ["left", "right"]}},
    "required": ["side"],
    "additionalProperties": False,
}


async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
    tool = types.Tool(name="turn", description="Turns to a side.", input_schema=SCHEMA)
    return types.ListToolsResult(tools=[tool])


async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    text = f"turned {(params.arguments or {})['side']}"
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def main() -> None:
    server: Any = Server("closed", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
