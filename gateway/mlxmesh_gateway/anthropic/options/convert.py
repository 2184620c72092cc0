"""Tools, thinking and the form of the output, as the contract has them. Pure."""

from __future__ import annotations

import json

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.schema import Conversation, Tool, ToolChoice
from mlxmesh_shared.errors import InvalidArgument

_MODES = {
    "auto": pb.TOOL_MODE_AUTO,
    "none": pb.TOOL_MODE_NONE,
    "any": pb.TOOL_MODE_REQUIRED,
    "tool": pb.TOOL_MODE_REQUIRED,
}
_CALLS = ("any", "tool")
"""Choices that need a tool."""
_EFFORTS = {
    "low": pb.REASONING_EFFORT_LOW,
    "medium": pb.REASONING_EFFORT_MEDIUM,
    "high": pb.REASONING_EFFORT_HIGH,
    "xhigh": pb.REASONING_EFFORT_HIGH,
    "max": pb.REASONING_EFFORT_HIGH,
}


def tools_of(request: Conversation) -> list[pb.Tool]:
    """Raises: InvalidArgument for a tool without a schema, or two of one name."""
    names: set[str] = set()
    for number, tool in enumerate(request.tools or []):
        if tool.name in names:
            raise _illegal(f"tools.{number}.name", "is the name of an earlier tool")
        names.add(tool.name)
    return [_tool(tool, f"tools.{number}") for number, tool in enumerate(request.tools or [])]


def _tool(tool: Tool, where: str) -> pb.Tool:
    if tool.input_schema is None:
        raise _illegal(f"{where}.input_schema", "is required")
    return pb.Tool(
        name=tool.name,
        description=tool.description or "",
        parameters_json_schema=_as_text(tool.input_schema),
        strict=bool(tool.strict),
    )


def set_tool_choice(generation: pb.GenerateRequest, request: Conversation) -> None:
    """Sets how the tools of a generation are used. Raises: InvalidArgument."""
    choice = request.tool_choice
    if choice is None:
        return
    names = [tool.name for tool in generation.tools]
    name = _chosen(choice, names)
    if not names:
        return
    generation.tool_choice.CopyFrom(pb.ToolChoice(mode=_MODES[choice.type], name=name))
    if choice.disable_parallel_tool_use:
        generation.parallel_tool_calls = False


def _chosen(choice: ToolChoice, names: list[str]) -> str:
    """The tool that must be called; empty for any or none."""
    if choice.type in _CALLS and not names:
        raise _illegal("tool_choice.type", f"is {choice.type}, which needs tools")
    if choice.type != "tool":
        return ""
    if choice.name not in names:
        raise _illegal("tool_choice.name", "must be the name of one of the tools")
    return choice.name


def reasoning_of(request: Conversation) -> pb.Reasoning | None:
    """None for what the model's template does by itself. Raises: InvalidArgument."""
    thinking = request.thinking
    effort = request.output_config.effort if request.output_config is not None else None
    reasoning = pb.Reasoning()
    if effort is not None:
        reasoning.effort = _EFFORTS[effort]
    if thinking is not None and thinking.type == "disabled":
        reasoning.enabled = False
    if thinking is not None and thinking.type == "enabled":
        if thinking.budget_tokens is None:
            raise _illegal("thinking.budget_tokens", "is required with the type enabled")
        reasoning.enabled = True
        reasoning.budget_tokens = thinking.budget_tokens
    return reasoning if reasoning.ListFields() else None


def output_schema(request: Conversation) -> str | None:
    """The JSON Schema that the text must satisfy. Raises: InvalidArgument."""
    config = request.output_config
    newer = config.format if config is not None else None
    older = request.output_format
    if newer is not None and older is not None:
        raise _illegal("output_format", "is the older name of output_config.format; set only one")
    chosen = newer or older
    if chosen is None:
        return None
    _check_no_calls(request, "output_format" if newer is None else "output_config.format")
    return _as_text(chosen.json_schema)


def _check_no_calls(request: Conversation, field: str) -> None:
    choice = request.tool_choice
    if request.tools and (choice is None or choice.type != "none"):
        raise _illegal(
            field, "cannot be combined with tools that may be called; set tool_choice.type to none"
        )


def _as_text(schema: dict[str, object]) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _illegal(field: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{field} {problem}", field=field)
