"""The JSON objects of the Responses API. Pure.

Source: the types of the official openai package, `openai.types.responses`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpc import StatusCode

from mlxmesh_gateway.openai.responses.tool_facts import LoopFacts
from mlxmesh_shared.errors import MeshError

JsonObject = dict[str, Any]
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_CODES = {
    StatusCode.INVALID_ARGUMENT: "invalid_prompt",
    StatusCode.RESOURCE_EXHAUSTED: "rate_limit_exceeded",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseFacts:
    """What is known of a response before anything is generated."""

    id: str
    model: str
    instructions: str | None = None
    background: bool = False
    store: bool = True
    previous_response_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    format: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the format of the text has beside its schema."""
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the response that the request decides, where they are not the defaults."""
    loop: LoopFacts | None = None
    """Set if the gateway calls MCP tools for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a response has come."""

    status: str
    created_s: float
    """Unix time."""
    usage: JsonObject | None = None
    error: JsonObject | None = None
    incomplete_reason: str | None = None


def response_object(
    facts: ResponseFacts, progress: Progress, output: Sequence[JsonObject]
) -> JsonObject:
    """A response as it is now."""
    reason = progress.incomplete_reason
    return {
        "id": facts.id,
        "object": "response",
        "created_at": int(progress.created_s),
        "status": progress.status,
        "background": facts.background,
        "error": progress.error,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": facts.instructions,
        "max_output_tokens": facts.max_output_tokens,
        "metadata": dict(facts.metadata),
        "model": facts.model,
        "output": list(output),
        "parallel_tool_calls": True,
        "previous_response_id": facts.previous_response_id,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": facts.store,
        "temperature": facts.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": facts.top_p,
        "truncation": "disabled",
        **facts.settings,
        "usage": progress.usage,
    }


def item_id(kind: str, response_id: str, number: int = 0) -> str:
    """The id of an output item; `number` of those of its kind."""
    short_id = response_id.removeprefix("resp_")
    return f"{kind}_{short_id}_{number}" if number else f"{kind}_{short_id}"


def text_part(text: str, logprobs: Sequence[JsonObject] = ()) -> JsonObject:
    """The content of an output message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def reasoning_item(item_id: str, status: str, text: str | None) -> JsonObject:
    """The reasoning before an output; None before it has any."""
    content = [] if text is None else [{"type": "reasoning_text", "text": text}]
    return {
        "id": item_id,
        "type": "reasoning",
        "status": status,
        "summary": [],
        "content": content,
    }


def function_call(
    item_id: str, status: str, *, call_id: str, name: str, arguments: str
) -> JsonObject:
    """A call of a function."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def function_call_output(item_id: str, *, call_id: str, output: str) -> JsonObject:
    """The result of a call."""
    return {
        "id": item_id,
        "type": "function_call_output",
        "status": "completed",
        "call_id": call_id,
        "output": output,
    }


def output_message(item_id: str, status: str, content: Sequence[JsonObject]) -> JsonObject:
    """An output message."""
    return {
        "id": item_id,
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": list(content),
    }


def input_message(item_id: str, role: str, text: str) -> JsonObject:
    """A message of the input."""
    own = {"type": "input_text", "text": text}
    content = text_part(text) if role == "assistant" else own
    return _input_message(item_id, role, [content])


def input_message_of_parts(item_id: str, role: str, parts: Sequence[tuple[str, str]]) -> JsonObject:
    """A message with images. parts: a text, or the URL of an image."""
    content = [
        {"type": "input_image", "image_url": url, "detail": "auto"}
        if url
        else {"type": "input_text", "text": text}
        for text, url in parts
    ]
    return _input_message(item_id, role, content)


def _input_message(item_id: str, role: str, content: Sequence[JsonObject]) -> JsonObject:
    return {
        "id": item_id,
        "type": "message",
        "status": "completed",
        "role": role,
        "content": list(content),
    }


def usage_object(
    *, input_tokens: int, cached_tokens: int, output_tokens: int, reasoning_tokens: int = 0
) -> JsonObject:
    """Token counts."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": input_tokens + output_tokens,
    }


def error_object(error: MeshError) -> JsonObject:
    """Why a response failed; of OpenAI's codes the one that fits."""
    return {"code": _CODES.get(error.code, "server_error"), "message": error.message}
