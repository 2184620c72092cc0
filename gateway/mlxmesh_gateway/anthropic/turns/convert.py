"""Anthropic's turns as the contract's messages. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.blocks import Block, TextBlock
from mlxmesh_gateway.anthropic.schema import Conversation, Message
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

PARAGRAPH = "\n\n"
"""Between the blocks of a turn, and between turns of one role in a row."""
FAILED_CALL = "Error: "
"""Before the result of a call that failed: templates have no other place for it."""

_ROLES = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}
_LEGAL_IN = {
    "thinking": "assistant",
    "redacted_thinking": "assistant",
    "tool_use": "assistant",
    "tool_result": "user",
}
"""The role whose turns may have a block; those of every role may have text."""
T = TypeVar("T")


def chat_input(request: Conversation) -> pb.ChatInput:
    """Raises: InvalidArgument, FeatureNotSupported."""
    if request.messages[-1].role == "assistant":
        field = f"messages.{len(request.messages) - 1}.role"
        raise FeatureNotSupported(
            f"{field} is not supported: chat templates end an assistant's message, so none can be"
            " continued; the last message must be the user's",
            field=field,
        )
    return pb.ChatInput(messages=_joined(_messages(request)))


def _messages(request: Conversation) -> Iterator[pb.ChatMessage]:
    """The messages of each turn; no system prompt is the same as an empty one."""
    if system := _text(request.system or [], "system"):
        yield pb.ChatMessage(role=pb.ROLE_SYSTEM, content=system)
    for number, turn in enumerate(request.messages):
        yield from _turn(turn, f"messages.{number}.content")


def _turn(turn: Message, path: str) -> Iterator[pb.ChatMessage]:
    """The results of tools, each as a message, and what else the turn says as one."""
    said = pb.ChatMessage(role=_ROLES[turn.role])
    texts: list[str] = []
    thoughts: list[str] = []
    has_results = False
    for number, block in enumerate(turn.content):
        where = f"{path}.{number}"
        _check_place(block, turn.role, where)
        match block.type:
            case "text":
                texts.append(_given(block.text, f"{where}.text"))
            case "thinking":
                thoughts.append(_given(block.thinking, f"{where}.thinking"))
            case "tool_use":
                said.tool_calls.append(_call(block, where))
            case "tool_result":
                has_results = True
                yield _result(block, where)
            case _:  # redacted_thinking: nobody here can read it
                pass
    said.content = PARAGRAPH.join(texts)
    said.reasoning_text = PARAGRAPH.join(thought for thought in thoughts if thought)
    if texts or not has_results:
        yield said


def _check_place(block: Block, role: str, where: str) -> None:
    legal = _LEGAL_IN.get(block.type, role)
    if legal != role:
        field = f"{where}.type"
        raise InvalidArgument(
            f"{field} is {block.type}, which only a message of the {legal} may have", field=field
        )


def _call(block: Block, where: str) -> pb.ToolCall:
    arguments = _given(block.input, f"{where}.input")
    return pb.ToolCall(
        id=_given(block.id, f"{where}.id"),
        name=_given(block.name, f"{where}.name"),
        arguments=json.dumps(arguments, ensure_ascii=False),
    )


def _result(block: Block, where: str) -> pb.ChatMessage:
    text = _text(block.content or [], f"{where}.content")
    return pb.ChatMessage(
        role=pb.ROLE_TOOL,
        tool_call_id=_given(block.tool_use_id, f"{where}.tool_use_id"),
        content=FAILED_CALL + text if block.is_error else text,
    )


def _joined(messages: Iterable[pb.ChatMessage]) -> list[pb.ChatMessage]:
    """Neighbours of one role as one message; results of tools stay apart."""
    joined: list[pb.ChatMessage] = []
    for message in messages:
        last = joined[-1] if joined else None
        if last is None or last.role != message.role or message.role == pb.ROLE_TOOL:
            joined.append(message)
            continue
        last.tool_calls.extend(message.tool_calls)
        last.content = _join(last.content, message.content)
        last.reasoning_text = _join(last.reasoning_text, message.reasoning_text)
    return joined


def _join(first: str, second: str) -> str:
    return f"{first}{PARAGRAPH}{second}" if first and second else first or second


def _text(blocks: Sequence[TextBlock], path: str) -> str:
    return PARAGRAPH.join(
        _given(block.text, f"{path}.{number}.text") for number, block in enumerate(blocks)
    )


def _given(value: T | None, field: str) -> T:
    if value is None:
        raise InvalidArgument(f"{field} is required", field=field)
    return value
