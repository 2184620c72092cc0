"""The MCP server of the official SDK with the mesh's tools. Importing this takes a second."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any

import mcp_types as types
from mcp.server.lowlevel.server import Server
from pydantic import BaseModel

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.mcp_server.mesh import Mesh
from mlxmesh_shared.mcp_server.tools import BY_NAME, TOOLS, MeshTool, call_tool
from mlxmesh_shared.rpc.access_log import first_error, redacted_trace

_log = logging.getLogger(__name__)
_INSTRUCTIONS = "Tools of an mlxmesh, which serves language models. list_models names the models."

Context = Any
"""The SDK's context of a request."""
OpenMesh = Callable[[Context, MeshTool], Awaitable[Mesh]]
"""The mesh for the caller of a request that calls a tool. Raises: MeshError."""


def make_server(open_mesh: OpenMesh) -> Server[Any]:
    """A server, for any of the SDK's transports."""

    async def list_tools(_ctx: Context, _params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_shown(tool) for tool in TOOLS])

    async def call(ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = BY_NAME.get(params.name)
        if tool is None:
            return _failed(f"there is no such tool; there are {', '.join(BY_NAME)}")
        try:
            mesh = await open_mesh(ctx, tool)
            progress = ctx.session.report_progress
            return _result(await call_tool(tool, mesh, params.arguments or {}, progress))
        except Exception as raised:  # noqa: BLE001 - each becomes a result
            return _failed(_message(raised))

    # What the SDK logs may quote what clients sent.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    return Server(
        "mlxmesh",
        version=version("mlxmesh"),
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call,
        get_tool_input_schema=_schema,
    )


def _schema(name: str) -> dict[str, Any] | None:
    tool = BY_NAME.get(name)
    return None if tool is None else tool.arguments.model_json_schema()


def _shown(tool: MeshTool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(),
        output_schema=tool.result.model_json_schema(),
        annotations=types.ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )


def _result(result: BaseModel) -> types.CallToolResult:
    structured = result.model_dump()
    text = structured.get("text")
    shown = text if isinstance(text, str) else json.dumps(structured)
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=shown)], structured_content=structured
    )


def _failed(message: str) -> types.CallToolResult:
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=message)], is_error=True
    )


def _message(raised: Exception) -> str:
    error = first_error(raised)
    if isinstance(error, MeshError):
        return error.message
    short_id = secrets.token_hex(4)
    _log.error("a tool failed, id %s\n%s", short_id, redacted_trace(error))
    return f"internal error; see the log, id {short_id}"
