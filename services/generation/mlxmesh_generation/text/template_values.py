"""A conversation as a template takes it: marked, and with the JSON in it as objects.

Only the standard library is imported here: the process that renders templates needs it.
"""

import json
from collections.abc import Mapping
from typing import Any, cast

from mlxmesh_generation.text.special_text import SpecialTexts
from mlxmesh_generation.text.template_limits import TemplateUnusable


class Arguments(dict[str, Any]):
    """The arguments of a call: an object that, where a template wants text, is its JSON."""

    def __init__(self, values: Mapping[str, Any], text: str) -> None:
        super().__init__(values)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: object) -> str:
        return self._text + other if isinstance(other, str) else NotImplemented

    def __radd__(self, other: object) -> str:
        return other + self._text if isinstance(other, str) else NotImplemented


def template_values(
    conversation: Mapping[str, Any], special: SpecialTexts
) -> tuple[dict[str, Any], bool]:
    """The variables, with every special text in them marked; whether there was one.

    Raises: TemplateUnusable for JSON that cannot be read.
    """
    values = dict(conversation)
    if values.get("tools"):
        values["tools"] = [_opened_tool(tool) for tool in values["tools"]]
    values["messages"] = [_opened_message(message) for message in values.get("messages", ())]
    values, has_marks = special.marked(values)
    for message in values["messages"]:
        for call in message.get("tool_calls", ()):
            both = call["function"]["arguments"]
            call["function"]["arguments"] = Arguments(both["values"], both["text"])
    return values, has_marks


def _opened_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    return {**tool, "function": {**function, "parameters": _object(function["parameters"])}}


def _opened_message(message: Mapping[str, Any]) -> Mapping[str, Any]:
    if "tool_calls" not in message:
        return message
    return {**message, "tool_calls": [_opened_call(call) for call in message["tool_calls"]]}


def _opened_call(call: Mapping[str, Any]) -> dict[str, Any]:
    text = call["function"]["arguments"]
    # Both are marked: an escape in the text may hide what the object shows.
    both = {"values": _object(text), "text": text}
    return {**call, "function": {**call["function"], "arguments": both}}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TemplateUnusable("cannot be given JSON that is no object, or is nested too deeply")
    return cast("dict[str, Any]", value)
