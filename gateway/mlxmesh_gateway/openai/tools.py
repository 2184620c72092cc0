"""Tools of requests in the contract's messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.tool_schema import ChatTool, Function, ToolChoice
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

_MODES = {
    "none": pb.TOOL_MODE_NONE,
    "auto": pb.TOOL_MODE_AUTO,
    "required": pb.TOOL_MODE_REQUIRED,
}


def chat_functions(tools: Sequence[ChatTool]) -> list[Function]:
    """Raises: InvalidArgument, FeatureNotSupported."""
    return [_function(one, f"tools.{number}") for number, one in enumerate(tools)]


def _function(tool: ChatTool, field: str) -> Function:
    check_type(tool.type, field)
    if tool.function is None:
        raise InvalidArgument(f"{field}.function is required", field=f"{field}.function")
    return tool.function


def check_type(kind: str, field: str) -> None:
    """Raises: FeatureNotSupported for a tool, at `field`, that is no function."""
    if kind == "mcp":
        raise FeatureNotSupported(
            f"{field}.type is not supported: POST /v1/responses calls tools of MCP servers; here"
            " only functions are",
            field=f"{field}.type",
        )
    if kind != "function":
        raise FeatureNotSupported(
            f"{field}.type is not supported: only functions are", field=f"{field}.type"
        )


def set_tools(
    generation: pb.GenerateRequest,
    functions: Sequence[Function],
    choice: ToolChoice | None,
    *,
    parallel: bool | None,
) -> None:
    """Sets the tools, and how the model uses them. Raises: InvalidArgument."""
    shown = _shown(functions, choice)
    generation.tools.extend(map(_tool, shown))
    if shown and parallel is not None:
        generation.parallel_tool_calls = parallel
    # Without tools, none and auto change nothing.
    if choice is not None and (shown or choice.mode == "required"):
        generation.tool_choice.mode = _MODES[choice.mode]
        generation.tool_choice.name = choice.name


def _shown(functions: Sequence[Function], choice: ToolChoice | None) -> Sequence[Function]:
    if choice is None or choice.allowed is None:
        return functions
    if unknown := choice.allowed - {one.name for one in functions}:
        raise InvalidArgument(
            f"tool_choice allows {len(unknown)} functions that are not in tools",
            field="tool_choice",
        )
    return [one for one in functions if one.name in choice.allowed]


def _tool(function: Function) -> pb.Tool:
    parameters = function.parameters
    return pb.Tool(
        name=function.name,
        description=function.description or "",
        parameters_json_schema="" if parameters is None else as_json(parameters),
        strict=bool(function.strict),
    )


def as_json(value: object) -> str:
    """Compact, with the keys in their order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
