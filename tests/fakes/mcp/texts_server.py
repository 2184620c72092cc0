"""An MCP server whose texts are given: `python texts_server.py FILE` with a JSON list of texts.

Each text is the title and the description of one tool, and what a call of it returns.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from mcp.server.stdio import stdio_server

TEXTS: list[str] = json.loads(Path(sys.argv[1]).read_text())
SCHEMA = {"type": "object", "properties": {}}


async def list_tools(_context: Any, _params: Any) -> types.ListToolsResult:
    tools = [
        types.Tool(name=f"say-{number}", title=text, description=text, input_schema=SCHEMA)
        for number, text in enumerate(TEXTS)
    ]
    return types.ListToolsResult(tools=tools)


async def call_tool(_context: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
    text = TEXTS[int(params.name.removeprefix("say-"))]
    return types.CallToolResult(content=[types.TextContent(type="text", text=text)])


async def main() -> None:
    server: Any = Server("texts", on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


if __name__ == "__main__":
    asyncio.run(main())
