"""Converts conversations, tools and reasoning; checks what the contract's rules cannot say."""

import json
from collections.abc import Sequence
from typing import Any, cast

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_generation.convert_image import Images, turn_parts
from mlxmesh_generation.domain.request import (
    Chat,
    ChatTurn,
    PastCall,
    Reasoning,
    Tool,
    ToolMode,
    Tools,
)
from mlxmesh_shared.errors import InvalidArgument

_ROLES: dict[int, str] = {
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
}
_MODES: dict[int, ToolMode] = {
    pb.TOOL_MODE_AUTO: ToolMode.AUTO,
    pb.TOOL_MODE_NONE: ToolMode.NONE,
    pb.TOOL_MODE_REQUIRED: ToolMode.REQUIRED,
}
_EFFORTS: dict[int, str] = {
    pb.REASONING_EFFORT_UNSPECIFIED: "",
    pb.REASONING_EFFORT_MINIMAL: "minimal",
    pb.REASONING_EFFORT_LOW: "low",
    pb.REASONING_EFFORT_MEDIUM: "medium",
    pb.REASONING_EFFORT_HIGH: "high",
}
# The fields of a message that only one role may have.
_ROLE_OF = {
    "tool_calls": pb.ROLE_ASSISTANT,
    "reasoning_text": pb.ROLE_ASSISTANT,
    "tool_call_id": pb.ROLE_TOOL,
    "tool_name": pb.ROLE_TOOL,
}


def chat(message: pb.GenerateRequest | pb.CountTokensRequest) -> Chat:
    """Raises: InvalidArgument."""
    source = message.chat
    opens = source.add_generation_prompt if source.HasField("add_generation_prompt") else True
    return Chat(
        _turns(source.messages),
        add_generation_prompt=opens,
        tools=_tools(message),
        reasoning=_reasoning(message.reasoning),
    )


def refuse_without_chat(message: pb.GenerateRequest | pb.CountTokensRequest) -> None:
    """Raises: InvalidArgument for a field that needs a conversation."""
    for field in ("tools", "reasoning"):
        if message.tools if field == "tools" else message.HasField("reasoning"):
            raise InvalidArgument(f"{field}: it needs chat as the input", field=field)
    _check_choice(message, [])


def json_object(text: str, field: str) -> dict[str, Any]:
    """Raises: InvalidArgument unless the text is a JSON object."""
    value = json_value(text, field)
    if not isinstance(value, dict):
        raise InvalidArgument(f"{field}: it must be a JSON object", field=field)
    return cast("dict[str, Any]", value)


def json_value(text: str, field: str) -> object:
    """Raises: InvalidArgument unless the text is JSON."""
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgument(f"{field}: it is not JSON: {reason}", field=field) from None


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is no JSON value")


# Messages.


def _turns(messages: Sequence[pb.ChatMessage]) -> tuple[ChatTurn, ...]:
    turns: list[ChatTurn] = []
    names: dict[str, str] = {}
    images = Images()
    for index, message in enumerate(messages):
        field = f"chat.messages[{index}]"
        role = _role(message.role, field)
        _check_fields(message, role, field)
        calls = _past_calls(message, field)
        turns.append(
            ChatTurn(
                role,
                "".join(part.text for part in message.parts) or message.content,
                reasoning=message.reasoning_text,
                calls=calls,
                call_id=message.tool_call_id,
                tool_name=message.tool_name or names.get(message.tool_call_id, ""),
                parts=turn_parts(message.parts, f"{field}.parts", images),
            )
        )
        names.update((call.call_id, call.name) for call in calls if call.call_id)
    return tuple(turns)


def _role(role: int, field: str) -> str:
    try:
        return _ROLES[role]
    except KeyError:
        field = f"{field}.role"
        raise InvalidArgument(f"{field}: {role} is not a known role", field=field) from None


def _check_fields(message: pb.ChatMessage, role: str, path: str) -> None:
    for name, only in _ROLE_OF.items():
        if getattr(message, name) and message.role != only:
            field = f"{path}.{name}"
            raise InvalidArgument(
                f"{field}: a message of the role {role} has none; remove it", field=field
            )
    if message.parts and message.content:
        field = f"{path}.parts"
        raise InvalidArgument(f"{field}: set content or parts, not both", field=field)


def _past_calls(message: pb.ChatMessage, path: str) -> tuple[PastCall, ...]:
    calls: list[PastCall] = []
    for index, call in enumerate(message.tool_calls):
        field = f"{path}.tool_calls[{index}]"
        if not call.name:
            raise InvalidArgument(f"{field}.name: it is required", field=f"{field}.name")
        if call.arguments:
            json_object(call.arguments, f"{field}.arguments")
        calls.append(PastCall(call.id, call.name, call.arguments or "{}"))
    return tuple(calls)


# Tools.


def _tools(message: pb.GenerateRequest | pb.CountTokensRequest) -> Tools | None:
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(message.tools))
    names = [tool.name for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            field = f"tools[{index}].name"
            raise InvalidArgument(f"{field}: another tool has the same name", field=field)
    mode, only = _check_choice(message, names)
    if not tools:
        return None
    parallel = not isinstance(message, pb.GenerateRequest) or (
        message.parallel_tool_calls or not message.HasField("parallel_tool_calls")
    )
    return Tools(tools, mode, only, parallel)


def _tool(tool: pb.Tool, path: str) -> Tool:
    field = f"{path}.parameters_json_schema"
    if tool.parameters_json_schema:
        kind = json_object(tool.parameters_json_schema, field).get("type", "object")
        if kind != "object" and "object" not in (kind if isinstance(kind, list) else ()):
            raise InvalidArgument(f"{field}: its type must be object", field=field)
    return Tool(tool.name, tool.description, tool.parameters_json_schema, tool.strict)


def _check_choice(
    message: pb.GenerateRequest | pb.CountTokensRequest, names: Sequence[str]
) -> tuple[ToolMode, str]:
    """The mode, and the only tool."""
    if not isinstance(message, pb.GenerateRequest) or not message.HasField("tool_choice"):
        return ToolMode.AUTO, ""
    choice = message.tool_choice
    if not names:
        raise InvalidArgument("tool_choice: it needs tools", field="tool_choice")
    mode = _mode(choice)
    if choice.name and mode is ToolMode.NONE:
        raise InvalidArgument(
            "tool_choice.name: no tool is called in this mode; remove it", field="tool_choice.name"
        )
    if choice.name and choice.name not in names:
        raise InvalidArgument("tool_choice.name: it is none of tools", field="tool_choice.name")
    return mode, choice.name


def _mode(choice: pb.ToolChoice) -> ToolMode:
    if choice.mode == pb.TOOL_MODE_UNSPECIFIED:
        return ToolMode.REQUIRED if choice.name else ToolMode.AUTO
    try:
        return _MODES[choice.mode]
    except KeyError:
        field = "tool_choice.mode"
        raise InvalidArgument(f"{field}: {choice.mode} is no known mode", field=field) from None


def _reasoning(message: pb.Reasoning) -> Reasoning:
    if message.effort not in _EFFORTS:
        field = "reasoning.effort"
        raise InvalidArgument(f"{field}: {message.effort} is no known effort", field=field)
    return Reasoning(
        enabled=message.enabled if message.HasField("enabled") else None,
        effort=_EFFORTS[message.effort],
        budget_tokens=message.budget_tokens if message.HasField("budget_tokens") else None,
    )
