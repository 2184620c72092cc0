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
from mlxmesh_gateway.openai.tool_schema import MAX_TOOLS, FunctionName, ResponseToolChoice

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
    """A part of a message's content: input_text, output_text or input_image."""

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
    """An item of the input: a message, reasoning, a call of a function or of an MCP tool."""

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
    server_label: str | None = None
    """Of an item of an MCP server."""
    approval_request_id: str | None = None
    """Of an approval, and of a call that was approved."""
    approve: bool | None = None
    """Whether a call of a tool is approved."""
    reason: Annotated[str | None, Field(max_length=1024)] = None
    """Why a call was not approved; the model is told."""
    error: Any = None
    """Of a call that failed."""
    tools: Annotated[Any, Harmless()] = None
    encrypted_content: Annotated[Any, Harmless()] = None
    id: str | None = None
    """Read of a call of an MCP tool and of a request for an approval."""
    status: Annotated[Any, Harmless()] = None
    phase: Annotated[Any, Harmless()] = None


class ToolFilter(Schema):
    """Tools of an MCP server."""

    tool_names: list[str] | None = None
    read_only: bool | None = None
    """Only tools of which the server says that they change nothing, or only the others."""


class ApprovalFilter(Schema):
    """Which tools of an MCP server need an approval; those that are in neither do."""

    always: ToolFilter | None = None
    never: ToolFilter | None = None


_ADDED_BY_ADMINS = (
    "MCP servers are added to the mesh by an administrator, with `mlxmesh mcp add`; name one of"
    " them in server_label"
)


class ResponseTool(Schema):
    """A tool: a function of the client, or the tools of an MCP server of the mesh."""

    type: str
    """function or mcp."""
    name: FunctionName | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    server_label: str | None = None
    """The name of an MCP server of the mesh."""
    server_description: str | None = None
    allowed_tools: list[str] | ToolFilter | None = None
    """By default, all that the caller may use."""
    require_approval: Literal["always", "never"] | ApprovalFilter | None = None
    """By default, always. A tool whose policy in the mesh asks for an approval needs one anyway."""
    server_url: Annotated[Any, Refused(_ADDED_BY_ADMINS)] = None
    connector_id: Annotated[Any, Refused(_ADDED_BY_ADMINS)] = None
    tunnel_id: Annotated[Any, Refused(_ADDED_BY_ADMINS)] = None
    headers: Annotated[Any, Refused(_ADDED_BY_ADMINS, unless=({},))] = None
    authorization: Annotated[Any, Refused(_ADDED_BY_ADMINS)] = None
    output_schema: Annotated[Any, Harmless()] = None
    allowed_callers: Annotated[
        Any, Refused("models here call tools directly", unless=(["direct"],))
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
    tool_choice: ResponseToolChoice = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    top_logprobs: TopLogprobs | None = None

    max_tool_calls: Annotated[int | None, Field(ge=1, le=128)] = None
    """Calls of MCP tools, together; later ones are not made."""

    image: Annotated[Any, Harmless()] = None
    prompt_cache_key: Annotated[Any, Harmless()] = None
    prompt_cache_options: Annotated[Any, Harmless()] = None
    prompt_cache_retention: Annotated[Any, Harmless()] = None

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
