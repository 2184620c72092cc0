"""The JSON objects of the Responses API. Pure.

Source: the types of the official openai package, `openai.types.responses`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grpc import StatusCode

from mlxmesh_shared.errors import MeshError

JsonObject = dict[str, Any]

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
        "top_p": facts.top_p,
        "truncation": "disabled",
        "usage": progress.usage,
    }


def message_id(response_id: str) -> str:
    """The id of the message that a response has as its output."""
    return f"msg_{response_id.removeprefix('resp_')}"


def text_part(text: str) -> JsonObject:
    """The content of an output message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


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
    return {
        "id": item_id,
        "type": "message",
        "status": "completed",
        "role": role,
        "content": [content],
    }


def usage_object(*, input_tokens: int, cached_tokens: int, output_tokens: int) -> JsonObject:
    """Token counts."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": cached_tokens, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": input_tokens + output_tokens,
    }


def error_object(error: MeshError) -> JsonObject:
    """Why a response failed; of OpenAI's codes the one that fits."""
    return {"code": _CODES.get(error.code, "server_error"), "message": error.message}
