"""Makes the body of an upstream's request. Pure.

Source: OpenAI's API reference, "Create chat completion" and "Create completion".
"""

import json
from dataclasses import asdict
from typing import Any

from mlxmesh_generation.domain.request import (
    Chat,
    ChatTurn,
    GenerationRequest,
    PromptText,
    Tool,
    ToolMode,
    Tools,
)
from mlxmesh_generation.domain.upstream import Capability, Sampling, Upstream

_ANY_OBJECT: dict[str, Any] = {"type": "object", "properties": {}}


def body_of(request: GenerationRequest, sampling: Sampling, upstream: Upstream) -> dict[str, Any]:
    """The body of a request that was checked."""
    body: dict[str, Any] = {
        "model": upstream.model_id,
        "stream_options": {"include_usage": True},
        **{name: value for name, value in asdict(sampling).items() if value is not None},
    }
    if request.max_tokens is not None:
        by_new_name = Capability.MAX_COMPLETION_TOKENS in upstream.capabilities
        body["max_completion_tokens" if by_new_name else "max_tokens"] = request.max_tokens
    if request.n > 1:
        body["n"] = request.n
    if request.stop:
        body["stop"] = list(request.stop)
    if isinstance(request.input, Chat):
        return body | _of_chat(request, request.input)
    assert isinstance(request.input, PromptText)
    return body | {"prompt": request.input.text}


def _of_chat(request: GenerationRequest, chat: Chat) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [_message(turn) for turn in chat.turns]}
    if chat.tools is not None:
        body |= _tools(chat.tools)
    if chat.reasoning.effort:
        body["reasoning_effort"] = chat.reasoning.effort
    if request.constraint is not None:
        body["response_format"] = _format(request.constraint.field, request.constraint.text)
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs.top}
    return body


def _message(turn: ChatTurn) -> dict[str, Any]:
    """One turn; the reasoning of past turns has no place in the protocol."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.calls:
        message["content"] = turn.content or None
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in turn.calls
        ]
    if turn.role == "tool":
        message["tool_call_id"] = turn.call_id
    return message


def _tools(tools: Tools) -> dict[str, Any]:
    choice: Any = tools.mode.value
    if tools.only and tools.mode is not ToolMode.NONE:
        choice = {"type": "function", "function": {"name": tools.only}}
    body: dict[str, Any] = {
        "tools": [{"type": "function", "function": _function(tool)} for tool in tools.tools],
        "tool_choice": choice,
    }
    if not tools.parallel:
        body["parallel_tool_calls"] = False
    return body


def _function(tool: Tool) -> dict[str, Any]:
    parameters = json.loads(tool.parameters) if tool.parameters else _ANY_OBJECT
    function: dict[str, Any] = {"name": tool.name, "parameters": parameters}
    if tool.description:
        function["description"] = tool.description
    if tool.strict:
        function["strict"] = True
    return function


def _format(field: str, text: str) -> dict[str, Any]:
    if field == "json_object":
        return {"type": "json_object"}
    schema = {"name": "answer", "schema": json.loads(text), "strict": True}
    return {"type": "json_schema", "json_schema": schema}
