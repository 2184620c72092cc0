"""Converts chats to the contract's messages."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh_gateway.openai.chat_schema import ChatRequest, Message, ToolCall
from mlxmesh_gateway.openai.constraints import set_format
from mlxmesh_gateway.openai.convert import chat_message, generation_of
from mlxmesh_gateway.openai.reasoning import set_effort, set_reasoning
from mlxmesh_gateway.openai.tools import chat_functions, check_type, set_tools
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument


def chat_generation(request: ChatRequest, *, request_id: str = "") -> pb.GenerateRequest:
    """Raises: InvalidArgument, FeatureNotSupported."""
    generation = generation_of(request, request_id, _max_tokens(request))
    generation.chat.messages.extend(_messages(request.messages))
    generation.chat.SetInParent()
    _set_format(generation, request)
    _set_logprobs(generation, request)
    _set_reasoning(generation, request)
    set_tools(
        generation,
        chat_functions(request.tools or ()),
        request.tool_choice,
        parallel=request.parallel_tool_calls,
    )
    return generation


def _max_tokens(request: ChatRequest) -> int | None:
    """None for the contract's default. Raises: InvalidArgument."""
    new, old = request.max_completion_tokens, request.max_tokens
    if new is not None and old is not None and new != old:
        raise InvalidArgument(
            "max_tokens must not differ from max_completion_tokens, its newer name",
            field="max_tokens",
        )
    return old if new is None else new


def _messages(messages: Sequence[Message]) -> list[pb.ChatMessage]:
    return [_message(one, f"messages.{number}") for number, one in enumerate(messages)]


def _message(message: Message, field: str) -> pb.ChatMessage:
    content = message.content
    if content is None and (message.tool_calls or message.reasoning_content):
        content = []
    made = chat_message(message.role, content, field)
    if message.name is not None and message.role != "tool":
        raise FeatureNotSupported(
            f"{field}.name is not supported: chat templates have no place for it; write it into"
            " the content",
            field=f"{field}.name",
        )
    made.tool_name = message.name or ""
    made.tool_call_id = message.tool_call_id or ""
    made.reasoning_text = message.reasoning_content or ""
    for number, call in enumerate(message.tool_calls or ()):
        made.tool_calls.append(_tool_call(call, f"{field}.tool_calls.{number}"))
    return made


def _tool_call(call: ToolCall, field: str) -> pb.ToolCall:
    if call.type is not None:
        check_type(call.type, field)
    if call.function is None:
        raise InvalidArgument(f"{field}.function is required", field=f"{field}.function")
    function = call.function
    return pb.ToolCall(id=call.id, name=function.name, arguments=function.arguments)


def _set_format(generation: pb.GenerateRequest, request: ChatRequest) -> None:
    asked = request.response_format
    if asked is not None:
        schema = asked.json_schema
        set_format(
            generation,
            asked.type,
            None if schema is None else schema.schema_,
            field="response_format",
            schema_field="response_format.json_schema.schema",
        )


def _set_logprobs(generation: pb.GenerateRequest, request: ChatRequest) -> None:
    if request.logprobs:
        generation.logprobs.top = request.top_logprobs or 0
        generation.logprobs.SetInParent()
    elif request.top_logprobs:
        raise InvalidArgument("top_logprobs needs logprobs: true", field="top_logprobs")


def _set_reasoning(generation: pb.GenerateRequest, request: ChatRequest) -> None:
    if request.reasoning is not None:
        set_reasoning(generation, request.reasoning)
    if request.reasoning_effort is not None:
        set_effort(generation, request.reasoning_effort)
    options = request.chat_template_kwargs
    if options is None:
        return
    for name in options.model_extra or ():
        field = f"chat_template_kwargs.{name}"
        raise FeatureNotSupported(f"{field} is not supported: only enable_thinking is", field=field)
    if options.enable_thinking is not None:
        generation.reasoning.enabled = options.enable_thinking
