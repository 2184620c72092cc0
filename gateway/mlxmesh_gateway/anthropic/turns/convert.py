"""Anthropic's turns as the contract's messages. Pure."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterable, Iterator, Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.anthropic.blocks import Block, TextBlock
from mlxmesh_gateway.anthropic.schema import Conversation, Message
from mlxmesh_gateway.http.schema import required
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
    parts: list[pb.ContentPart] = []
    thoughts: list[str] = []
    has_results = False
    for number, block in enumerate(turn.content):
        where = f"{path}.{number}"
        _check_place(block, turn.role, where)
        match block.type:
            case "text":
                parts.append(pb.ContentPart(text=required(block.text, f"{where}.text")))
            case "image":
                parts.append(_image(block, where))
            case "thinking":
                thoughts.append(required(block.thinking, f"{where}.thinking"))
            case "tool_use":
                said.tool_calls.append(_call(block, where))
            case "tool_result":
                has_results = True
                yield _result(block, where)
            case _:  # redacted_thinking: nobody here can read it
                pass
    _say(said, parts)
    said.reasoning_text = PARAGRAPH.join(thought for thought in thoughts if thought)
    if parts or not has_results:
        yield said


def _say(message: pb.ChatMessage, parts: Sequence[pb.ContentPart]) -> None:
    """Paragraphs of text, or with images the parts."""
    if not any(part.HasField("image") for part in parts):
        message.content = PARAGRAPH.join(part.text for part in parts)
        return
    for number, part in enumerate(parts):
        if number and part.text and parts[number - 1].text:
            message.parts.add(text=PARAGRAPH)
        message.parts.append(part)


def _image(block: Block, where: str) -> pb.ContentPart:
    source = required(block.source, f"{where}.source")
    field = f"{where}.source.data"
    try:
        data = b64decode(required(source.data, field), validate=True)
    except ValueError:
        raise InvalidArgument(f"{field} is not base64", field=field) from None
    return pb.ContentPart(image=pb.Image(data=data))


def _check_place(block: Block, role: str, where: str) -> None:
    legal = _LEGAL_IN.get(block.type, role)
    if legal != role:
        field = f"{where}.type"
        raise InvalidArgument(
            f"{field} is {block.type}, which only a message of the {legal} may have", field=field
        )


def _call(block: Block, where: str) -> pb.ToolCall:
    arguments = required(block.input, f"{where}.input")
    return pb.ToolCall(
        id=required(block.id, f"{where}.id"),
        name=required(block.name, f"{where}.name"),
        arguments=json.dumps(arguments, ensure_ascii=False),
    )


def _result(block: Block, where: str) -> pb.ChatMessage:
    text = _text(block.content or [], f"{where}.content")
    return pb.ChatMessage(
        role=pb.ROLE_TOOL,
        tool_call_id=required(block.tool_use_id, f"{where}.tool_use_id"),
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
        _join_contents(last, message)
        last.reasoning_text = _join(last.reasoning_text, message.reasoning_text)
    return joined


def _join_contents(last: pb.ChatMessage, message: pb.ChatMessage) -> None:
    if not (last.parts or message.parts):
        last.content = _join(last.content, message.content)
        return
    first, second = _parts(last), _parts(message)
    if first and second and first[-1].text and second[0].text:
        first.append(pb.ContentPart(text=PARAGRAPH))
    last.ClearField("content")
    last.ClearField("parts")
    last.parts.extend([*first, *second])


def _parts(message: pb.ChatMessage) -> list[pb.ContentPart]:
    if message.parts:
        return list(message.parts)
    return [pb.ContentPart(text=message.content)] if message.content else []


def _join(first: str, second: str) -> str:
    return f"{first}{PARAGRAPH}{second}" if first and second else first or second


def _text(blocks: Sequence[TextBlock], path: str) -> str:
    return PARAGRAPH.join(
        required(block.text, f"{path}.{number}.text") for number, block in enumerate(blocks)
    )
