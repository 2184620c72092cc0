"""The request of POST /v1/responses, and how each of its fields is handled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema
from mlxmesh_gateway.openai.schema import (
    NOT_YET,
    Metadata,
    ReasoningFields,
    SamplingFields,
    TextPart,
    TopLogprobs,
    UInt32,
)
from mlxmesh_gateway.openai.tool_schema import MAX_TOOLS, FunctionName, ToolChoiceField

_TEXT_ONLY = "models here read text only"


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


class Summary(Schema):
    """A part of a summary of reasoning."""

    type: str
    text: str | None = None


_Parts = Annotated[
    list[Part] | None,
    BeforeValidator(_as_parts, json_schema_input_type=str | list[Part] | None),
]


class Item(Schema):
    """An item of the input: a message, reasoning, a call of a function or its result."""

    type: str | None = None
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: _Parts = None
    call_id: Annotated[str | None, Field(json_schema_extra={"maxLength": 128})] = None
    name: str | None = None
    arguments: str | None = None
    """Of a call, as JSON."""
    output: _Parts = None
    """Of a call."""
    summary: list[Summary] | None = None
    """Of reasoning; read where it has no content."""
    encrypted_content: Annotated[Any, Harmless()] = None
    id: Annotated[Any, Harmless()] = None
    status: Annotated[Any, Harmless()] = None
    phase: Annotated[Any, Harmless()] = None


class ResponseTool(Schema):
    """A tool; only functions are honoured."""

    type: str
    name: FunctionName | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    output_schema: Annotated[Any, Harmless()] = None
    allowed_callers: Annotated[
        Any, Refused("models here call functions directly", unless=(["direct"],))
    ] = None
    defer_loading: Annotated[Any, Refused("every tool is shown", unless=(False,))] = None


class Format(Schema):
    """The format of the text. A JSON Schema is enforced, whatever `strict` says."""

    type: str
    """text, json_object or json_schema."""
    name: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = None
    description: Annotated[str | None, Field(max_length=4096)] = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class Reasoning(ReasoningFields):
    """Whether and how much the model reasons."""

    summary: Annotated[Any, Harmless()] = None
    generate_summary: Annotated[Any, Harmless()] = None
    context: Annotated[Any, Refused(NOT_YET, unless=("auto",))] = None
    mode: Annotated[Any, Refused(NOT_YET, unless=("standard",))] = None


class TextConfig(Schema):
    """The format of the output."""

    format: Format | None = None
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
    user: str | None = None
    """The label `user`, unless the request has it."""
    safety_identifier: str | None = None
    """The label `user`, without `user`."""
    previous_response_id: str | None = None
    text: TextConfig | None = None
    include: list[str] | None = None
    stream_options: StreamOptions | None = None
    tools: Annotated[
        list[ResponseTool] | None, Field(json_schema_extra={"maxItems": MAX_TOOLS})
    ] = None
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    top_logprobs: TopLogprobs | None = None

    image: Annotated[Any, Harmless()] = None
    max_tool_calls: Annotated[Any, Harmless()] = None
    prompt_cache_key: Annotated[Any, Harmless()] = None
    prompt_cache_options: Annotated[Any, Harmless()] = None
    prompt_cache_retention: Annotated[Any, Harmless()] = None
    service_tier: Annotated[Any, Harmless()] = None

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
    truncation: Annotated[Any, Refused("nothing is left out of a prompt", unless=("disabled",))] = (
        None
    )
