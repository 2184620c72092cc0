"""The variables of a chat template, from a conversation. Pure.

JSON stays text here: the process that runs the template reads it, where a text that needs too much
time or memory harms nobody.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mlxmesh_generation.domain.request import Chat, ChatTurn, Image, PastCall, Tool
from mlxmesh_generation.text import template_source

ANY_OBJECT = '{"type": "object", "properties": {}}'
# Templates have different names for the reasoning of an earlier turn.
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


def conversation(
    chat: Chat, source: str = "", variables: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The variables of the template with this source; `variables` are further ones."""
    in_parts = template_source.needs_parts(source)
    result: dict[str, Any] = {
        "messages": [_message(turn, source, in_parts=in_parts) for turn in chat.turns],
        "add_generation_prompt": chat.add_generation_prompt,
        **variables,
    }
    if chat.tools is not None:
        result["tools"] = [_tool(tool) for tool in chat.tools.tools]
    return result


def _message(turn: ChatTurn, source: str, *, in_parts: bool) -> dict[str, Any]:
    parts = turn.parts or ((turn.content,) if in_parts and turn.content else ())
    content = [_part(part) for part in parts] if parts else turn.content
    message: dict[str, Any] = {"role": turn.role, "content": content}
    if turn.calls:
        message["tool_calls"] = [_call(call) for call in turn.calls]
        if not turn.content and template_source.asks_for_none(source, "content"):
            message["content"] = None
    if turn.reasoning:
        message |= _reasoning(turn, source)
    if turn.call_id:
        message["tool_call_id"] = turn.call_id
    if turn.tool_name:
        message["name"] = turn.tool_name
    return message


def _part(part: str | Image) -> dict[str, str]:
    return {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}


def _reasoning(turn: ChatTurn, source: str) -> dict[str, str]:
    keys = [key for key in _REASONING_KEYS if template_source.has_key(source, key)]
    if turn.calls and turn.content and "thinking" in keys:
        # gpt-oss has one place for both before a call, and refuses a turn that has both.
        keys.remove("thinking")
    return dict.fromkeys(keys, turn.reasoning)


def _call(call: PastCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments or "{}"}
    return {"id": call.call_id, "type": "function", "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or ANY_OBJECT,
    }
    return {"type": "function", "function": function}
