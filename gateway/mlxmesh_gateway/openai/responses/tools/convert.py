"""Converts between the tools of the Responses API and ToolService's messages."""

from __future__ import annotations

import json
from typing import Any, cast

from mlxmesh.tool.v1 import tool_pb2 as t
from mlxmesh_gateway.http.door import HttpCalls
from mlxmesh_gateway.http.statuses import http_status
from mlxmesh_gateway.openai.responses.objects import JsonObject
from mlxmesh_gateway.openai.responses.schema import ResponseTool
from mlxmesh_gateway.openai.responses.toolbox import ServerTool
from mlxmesh_gateway.openai.tool_schema import Function, ToolChoice
from mlxmesh_shared.errors import MeshError

LIST_TOOLS = "/mlxmesh.tool.v1.ToolService/ListTools"
CALL_TOOL = "/mlxmesh.tool.v1.ToolService/CallTool"
_MAX_ERROR = 300
_CUT = "\n[The rest was cut off.]"

# The tools of a request.


async def list_tools(calls: HttpCalls, label: str) -> list[ServerTool]:
    """The tools of a server that the client may call. Raises: MeshError."""
    request = t.ListToolsRequest(server=label)
    response = await calls.unary(LIST_TOOLS, request, t.ListToolsResponse)
    return [_server_tool(one) for one in response.tools if one.approval != t.APPROVAL_NEVER]


def _server_tool(tool: t.Tool) -> ServerTool:
    return ServerTool(
        name=tool.name,
        function=tool.function,
        function_json=Function(
            name=tool.function,
            description=tool.description or tool.title or None,
            parameters=schema_of(tool.input_schema_json),
        ),
        # What is not known to need none needs an approval.
        asks=tool.approval != t.APPROVAL_ALWAYS,
        read_only=tool.read_only,
    )


def schema_of(text: str) -> dict[str, Any]:
    """A schema of arguments; of any object where there is none."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        return {"type": "object"}
    return cast("dict[str, Any]", value) or {"type": "object"}


def shown_tool(tool: ResponseTool) -> JsonObject:
    """A tool of the type mcp, as the response repeats it."""
    shown = tool.model_dump(include={"server_description", "allowed_tools"}, exclude_none=True)
    rule = tool.require_approval
    asked = "always" if rule is None else rule
    shown["require_approval"] = (
        asked if isinstance(asked, str) else asked.model_dump(exclude_none=True)
    )
    return {"type": "mcp", "server_label": tool.server_label, **shown}


def shown_choice(choice: ToolChoice | None) -> str | JsonObject:
    """A tool choice, as the response repeats it."""
    if choice is None:
        return "auto"
    if choice.server:
        named = {"name": choice.name} if choice.name else {}
        return {"type": "mcp", "server_label": choice.server, **named}
    if choice.allowed is not None:
        functions = [{"type": "function", "name": one} for one in sorted(choice.allowed)]
        servers = [
            {"type": "mcp", "server_label": label, **({"name": name} if name else {})}
            for label, name in sorted(choice.servers)
        ]
        return {"type": "allowed_tools", "mode": choice.mode, "tools": [*functions, *servers]}
    return {"type": "function", "name": choice.name} if choice.name else choice.mode


# Calls.


async def call_tool(
    calls: HttpCalls,
    label: str,
    name: str,
    arguments: str,
    *,
    approved: bool,
    request_id: str,
    max_characters: int,
) -> tuple[str, JsonObject | None]:
    """What the model is told, and the error if the tool says that it failed. Raises: MeshError."""
    request = t.CallToolRequest(
        server=label, tool=name, arguments_json=arguments, approved=approved, request_id=request_id
    )
    response = await calls.unary(CALL_TOOL, request, t.CallToolResponse)
    return call_outcome(response, max_characters)


def call_outcome(
    response: t.CallToolResponse, max_characters: int
) -> tuple[str, JsonObject | None]:
    """What the model is told, and the error if the tool says that it failed."""
    text = response.text or response.structured_json or response.content_json
    cut = len(text) > max_characters
    text = text[:max_characters] + (_CUT if cut or response.truncated else "")
    if not response.is_error:
        return text, None
    return text, {
        "type": "mcp_tool_execution_error",
        "content": [{"type": "text", "text": text[:_MAX_ERROR]}],
    }


def call_failure(error: MeshError) -> tuple[str, JsonObject]:
    """What the model is told of a call that failed, and the error."""
    message = f"The call failed: {error.message}"[:_MAX_ERROR]
    return message, {"type": "http_error", "code": http_status(error), "message": message}


def illegal_call(message: str) -> tuple[str, JsonObject]:
    """What the model is told of a call that could not be made, and the error."""
    return message, {"type": "mcp_protocol_error", "code": -32602, "message": message}
