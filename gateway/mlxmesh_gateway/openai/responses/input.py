"""Items of a response's input as messages of the contract, and back. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.convert import chat_message
from mlxmesh_gateway.openai.responses.objects import (
    JsonObject,
    function_call,
    function_call_output,
    input_message,
    reasoning_item,
)
from mlxmesh_gateway.openai.responses.schema import Item
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

T = TypeVar("T")
Messages = Sequence[pb.ChatMessage]
_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}


def input_messages(items: Sequence[Item]) -> list[pb.ChatMessage]:
    """Reasoning, a text and calls that follow each other are one message of the model.

    Raises: InvalidArgument, FeatureNotSupported.
    """
    messages: list[pb.ChatMessage] = []
    for number, item in enumerate(items):
        _add(messages, item, f"input.{number}")
    return messages


def _add(messages: list[pb.ChatMessage], item: Item, field: str) -> None:
    match item.type:
        case None | "message":
            _add_message(messages, item, field)
        case "reasoning":
            text = "".join(part.text or "" for part in item.content or item.summary or ())
            messages.append(pb.ChatMessage(role=pb.ROLE_ASSISTANT, reasoning_text=text))
        case "function_call":
            _add_call(messages, item, field)
        case "function_call_output":
            made = chat_message("tool", _required(item.output, f"{field}.output"), field)
            made.tool_call_id = _required(item.call_id, f"{field}.call_id")
            messages.append(made)
        case _:
            raise FeatureNotSupported(
                f"{field}.type is not supported: message, reasoning, function_call and"
                " function_call_output are",
                field=f"{field}.type",
            )


def _add_message(messages: list[pb.ChatMessage], item: Item, field: str) -> None:
    made = chat_message(_required(item.role, f"{field}.role"), item.content, field)
    last = messages[-1] if messages else pb.ChatMessage()
    is_reasoning = last.reasoning_text and not (last.content or last.tool_calls)
    if made.role == pb.ROLE_ASSISTANT and is_reasoning:
        last.content = made.content
    else:
        messages.append(made)


def _add_call(messages: list[pb.ChatMessage], item: Item, field: str) -> None:
    call = pb.ToolCall(
        id=_required(item.call_id, f"{field}.call_id"),
        name=_required(item.name, f"{field}.name"),
        arguments=_required(item.arguments, f"{field}.arguments"),
    )
    if not messages or messages[-1].role != pb.ROLE_ASSISTANT:
        messages.append(pb.ChatMessage(role=pb.ROLE_ASSISTANT))
    messages[-1].tool_calls.append(call)


def _required(value: T | None, field: str) -> T:
    if value is None:
        raise InvalidArgument(f"{field} is required", field=field)
    return value


def input_items(messages: Messages, response_id: str) -> list[JsonObject]:
    """A conversation as items, oldest first."""
    short_id = response_id.removeprefix("resp_")
    return [
        item
        for number, message in enumerate(messages)
        for item in _items(message, f"{short_id}_{number}")
    ]


def _items(message: pb.ChatMessage, own_id: str) -> Iterator[JsonObject]:
    if message.role == pb.ROLE_TOOL:
        yield function_call_output(
            f"fco_{own_id}", call_id=message.tool_call_id, output=message.content
        )
        return
    if message.reasoning_text:
        yield reasoning_item(f"rs_{own_id}", "completed", message.reasoning_text)
    if message.content or not (message.reasoning_text or message.tool_calls):
        yield input_message(f"msg_{own_id}", _ROLES.get(message.role, "user"), message.content)
    for number, call in enumerate(message.tool_calls):
        yield function_call(
            f"fc_{own_id}_{number}",
            "completed",
            call_id=call.id,
            name=call.name,
            arguments=call.arguments,
        )
