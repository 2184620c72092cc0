"""Items of a response's input as messages of the contract, and back. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.http.schema import required
from mlxmesh_gateway.openai.convert import chat_message
from mlxmesh_gateway.openai.responses.approvals import (
    TOOL_ITEMS,
    Answer,
    item_id_of,
    read_tool,
    result_text,
)
from mlxmesh_gateway.openai.responses.objects import (
    JsonObject,
    function_call,
    function_call_output,
    input_message,
    input_message_of_parts,
    reasoning_item,
)
from mlxmesh_gateway.openai.responses.schema import Item
from mlxmesh_gateway.openai.responses.toolbox import NO_TOOLS, Toolbox, as_arguments
from mlxmesh_shared.errors import FeatureNotSupported

Messages = Sequence[pb.ChatMessage]
_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}


def input_messages(
    items: Sequence[Item], answers: Sequence[Answer] = (), toolbox: Toolbox = NO_TOOLS
) -> list[pb.ChatMessage]:
    """Reasoning, a text and calls that follow each other are one message of the model.

    answers: to requests for approvals; the result of such a call is an empty message until it was
    called. Raises: InvalidArgument, FeatureNotSupported.
    """
    messages: list[pb.ChatMessage] = []
    for number, item in enumerate(items):
        if item.type in TOOL_ITEMS:
            _add_tool_item(messages, item, f"input.{number}", toolbox)
        else:
            _add(messages, item, f"input.{number}")
    return with_results(messages, answers)


def with_results(messages: Messages, answers: Sequence[Answer]) -> list[pb.ChatMessage]:
    """The conversation, with a result of each answered call behind the message that made it."""
    found: list[pb.ChatMessage] = []
    by_call = {answer.call.call_id: answer for answer in answers}
    for message in messages:
        found.append(message)
        for call in message.tool_calls:
            answer = by_call.pop(call.id, None)
            if answer is not None:
                text = "" if answer.approve else answer.refusal
                found.append(tool_result(call.id, text))
    return found


def tool_result(call_id: str, text: str) -> pb.ChatMessage:
    """What the model is told of a call."""
    return pb.ChatMessage(role=pb.ROLE_TOOL, tool_call_id=call_id, content=text)


def _add_tool_item(
    messages: list[pb.ChatMessage], item: Item, field: str, toolbox: Toolbox
) -> None:
    """A call of an MCP tool is a call of a function and its result."""
    if item.type not in ("mcp_call", "mcp_approval_request"):
        return
    arguments = as_arguments(item.arguments or "") or "{}"
    label, name = read_tool(item, field)
    call = pb.ToolCall(
        id=item_id_of(item, field), name=toolbox.function_of(label, name), arguments=arguments
    )
    _append_call(messages, call)
    if item.type == "mcp_call":
        messages.append(tool_result(call.id, result_text(item)))


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
            made = chat_message("tool", required(item.output, f"{field}.output"), field)
            made.tool_call_id = required(item.call_id, f"{field}.call_id")
            messages.append(made)
        case _:
            raise FeatureNotSupported(
                f"{field}.type is not supported: message, reasoning, function_call,"
                " function_call_output and those of MCP tools are",
                field=f"{field}.type",
            )


def _add_message(messages: list[pb.ChatMessage], item: Item, field: str) -> None:
    made = chat_message(required(item.role, f"{field}.role"), item.content, field)
    last = messages[-1] if messages else pb.ChatMessage()
    is_reasoning = last.reasoning_text and not (last.content or last.tool_calls or made.parts)
    if made.role == pb.ROLE_ASSISTANT and is_reasoning:
        last.content = made.content
    else:
        messages.append(made)


def _add_call(messages: list[pb.ChatMessage], item: Item, field: str) -> None:
    call = pb.ToolCall(
        id=required(item.call_id, f"{field}.call_id"),
        name=required(item.name, f"{field}.name"),
        arguments=required(item.arguments, f"{field}.arguments"),
    )
    _append_call(messages, call)


def _append_call(messages: list[pb.ChatMessage], call: pb.ToolCall) -> None:
    if not messages or messages[-1].role != pb.ROLE_ASSISTANT:
        messages.append(pb.ChatMessage(role=pb.ROLE_ASSISTANT))
    messages[-1].tool_calls.append(call)


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
    role = _ROLES.get(message.role, "user")
    if message.parts:
        parts = [(part.text, part.image.url) for part in message.parts]
        yield input_message_of_parts(f"msg_{own_id}", role, parts)
    elif message.content or not (message.reasoning_text or message.tool_calls):
        yield input_message(f"msg_{own_id}", role, message.content)
    for number, call in enumerate(message.tool_calls):
        yield function_call(
            f"fc_{own_id}_{number}",
            "completed",
            call_id=call.id,
            name=call.name,
            arguments=call.arguments,
        )
