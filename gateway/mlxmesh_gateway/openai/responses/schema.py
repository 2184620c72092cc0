"""The request of POST /v1/responses, and how each of its fields is handled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema
from mlxmesh_gateway.openai.schema import NOT_YET, SamplingFields, TextPart, UInt32

_TEXT_ONLY = "models here read text only"
_Key = Annotated[str, StringConstraints(max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[_Key, _Value], Field(max_length=16)]
"""Pairs of texts that a response has beside its output."""


def _as_items(value: object) -> object:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    return value


def _as_parts(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "input_text", "text": value}]
    return value


class Part(TextPart):
    """A part of a message's content: input_text or output_text."""

    annotations: Annotated[Any, Harmless()] = None
    logprobs: Annotated[Any, Harmless()] = None
    detail: Annotated[Any, Harmless()] = None
    file_id: Annotated[Any, Refused(_TEXT_ONLY)] = None
    file_data: Annotated[Any, Refused(_TEXT_ONLY)] = None
    file_url: Annotated[Any, Refused(_TEXT_ONLY)] = None


class Item(Schema):
    """An item of the input; only messages are honoured."""

    type: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: Annotated[
        list[Part] | None,
        BeforeValidator(_as_parts, json_schema_input_type=str | list[Part] | None),
    ] = None
    id: Annotated[Any, Harmless()] = None
    status: Annotated[Any, Harmless()] = None
    phase: Annotated[Any, Harmless()] = None


class TextConfig(Schema):
    """The format of the output."""

    format: Annotated[Any, Refused(NOT_YET, unless=({"type": "text"},))] = None
    verbosity: Annotated[Any, Refused(NOT_YET, unless=("medium",))] = None


class StreamOptions(Schema):
    """What a stream has beside its events."""

    include_obfuscation: Annotated[Any, Harmless()] = None


class ResponseRequest(SamplingFields):
    """What to respond to, and how."""

    model: str
    input: Annotated[
        list[Item], BeforeValidator(_as_items, json_schema_input_type=str | list[Item])
    ]
    instructions: str | None = None
    max_output_tokens: UInt32 | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    previous_response_id: str | None = None
    text: TextConfig | None = None
    include: list[str] | None = None
    stream_options: StreamOptions | None = None

    image: Annotated[Any, Harmless()] = None
    max_tool_calls: Annotated[Any, Harmless()] = None
    parallel_tool_calls: Annotated[Any, Harmless()] = None
    prompt_cache_key: Annotated[Any, Harmless()] = None
    prompt_cache_options: Annotated[Any, Harmless()] = None
    prompt_cache_retention: Annotated[Any, Harmless()] = None
    safety_identifier: Annotated[Any, Harmless()] = None
    service_tier: Annotated[Any, Harmless()] = None
    user: Annotated[Any, Harmless()] = None

    access_programs: Annotated[Any, Refused("the mesh has none")] = None
    background_options: Annotated[
        Any, Refused("the header mlxmesh-timeout-ms sets the deadline of a response")
    ] = None
    context_management: Annotated[Any, Refused(NOT_YET, unless=([],))] = None
    conversation: Annotated[
        Any, Refused("the mesh stores no conversations; send the earlier messages as input")
    ] = None
    moderation: Annotated[Any, Refused("the mesh does not moderate")] = None
    prompt: Annotated[Any, Refused("the mesh stores no prompts; send the text as input")] = None
    reasoning: Annotated[
        Any, Refused(NOT_YET, unless=({}, {"effort": None}, {"effort": "none"}))
    ] = None
    tool_choice: Annotated[Any, Refused(NOT_YET, unless=("none", "auto"))] = None
    tools: Annotated[Any, Refused(NOT_YET, unless=([],))] = None
    top_logprobs: Annotated[Any, Refused(NOT_YET, unless=(0,))] = None
    truncation: Annotated[Any, Refused("nothing is left out of a prompt", unless=("disabled",))] = (
        None
    )
