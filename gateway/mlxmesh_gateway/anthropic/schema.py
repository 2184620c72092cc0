"""The requests of Anthropic's Messages API, and how each of their fields is handled.

Ranges are those of the contract, under the names of this API.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mlxmesh_gateway.anthropic.blocks import Content, Ignored, Texts, ToolName
from mlxmesh_gateway.http.schema import Refused, Schema

NOT_YET = "this version does not support it yet"
_MAX_MESSAGES = 10_000
_MAX_TOOLS = 128

TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
LabelKey = Annotated[str, Field(pattern=r"^[a-z0-9_.-]{1,64}$")]
LabelValue = Annotated[str, Field(max_length=256)]
Budget = Annotated[int, Field(ge=1, le=1_000_000)]
NotYet = Annotated[Any, Refused(NOT_YET)]


class Message(Schema):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


_NO_EDITS: dict[str, Any] = {"edits": []}
_KEEP_ALL: dict[str, Any] = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
"""What Claude Code sends even when nothing is to be cleared."""


_THINKING = ("disabled", "enabled", "adaptive")


class Thinking(Schema):
    """How the model thinks before it answers."""

    type: Annotated[
        Literal["disabled", "enabled", "adaptive", "between_tools"],
        Refused("the mesh cannot say where in a turn a model thinks", unless=_THINKING),
    ]
    budget_tokens: Budget | None = None
    """The most tokens of thinking; required with `enabled`, and read with it alone."""
    display: Literal["summarized", "omitted"] | None = None
    """`omitted` leaves the text of thinking blocks empty; no thinking is ever summarized."""


class Tool(Schema):
    """A tool of the client."""

    type: Annotated[
        str | None, Refused("the mesh runs no tools of its own", unless=("custom",))
    ] = None
    name: ToolName
    description: Annotated[str | None, Field(max_length=65_536)] = None
    input_schema: dict[str, Any] | None = None
    """The JSON Schema of the arguments. Required."""
    strict: bool | None = None
    """Whether the arguments always satisfy the schema."""
    cache_control: Ignored = None
    eager_input_streaming: Ignored = None
    allowed_callers: Annotated[
        Any, Refused("the mesh runs no code that could call it", unless=(["direct"], []))
    ] = None
    defer_loading: Annotated[Any, Refused("the mesh has no tool search", unless=(False,))] = None
    input_examples: Annotated[Any, Refused("templates take no examples", unless=([],))] = None


class ToolChoice(Schema):
    """How the model uses tools. Without tools, `auto` and `none` change nothing."""

    type: Literal["auto", "none", "any", "tool"]
    name: ToolName | None = None
    """The tool that must be called; required with `tool`, and read with it alone."""
    disable_parallel_tool_use: bool | None = None


class OutputFormat(Schema):
    """What the text of the answer must be."""

    type: Literal["json_schema"]
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    """A JSON Schema that the text satisfies."""
    name: Ignored = None


class OutputConfig(Schema):
    """The form of the output."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """How much the model thinks, for templates that take it; the last three are the same."""
    format: OutputFormat | None = None
    task_budget: NotYet = None


class Conversation(Schema):
    """The input of a model."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)]
    system: Texts | None = None
    tools: Annotated[list[Tool] | None, Field(max_length=_MAX_TOOLS)] = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    """The older name of `output_config.format`."""
    compaction: NotYet = None
    context_management: Annotated[Any, Refused(NOT_YET, unless=(_KEEP_ALL, _NO_EDITS))] = None
    mcp_servers: Annotated[
        Any,
        Refused("POST /v1/responses calls the tools of the mesh's MCP servers", unless=([],)),
    ] = None
    speed: Annotated[Any, Refused("the mesh has one speed", unless=("standard",))] = None
    billing_policy: Ignored = None
    cache_control: Ignored = None
    user_profile_id: Ignored = None


class CountRequest(Conversation):
    """POST /v1/messages/count_tokens."""


class RequestMetadata(Schema):
    """About a request."""

    user_id: str | None = None
    """The label `user`, unless the request has it."""


class MessageRequest(Conversation):
    """POST /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)]
    stream: bool | None = None
    stop_sequences: Annotated[list[StopText] | None, Field(max_length=16)] = None
    temperature: Annotated[float | None, Field(ge=0, le=10)] = None
    """Default 1."""
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=0, le=1_000_000)] = None
    # Below are options that Anthropic lacks, under their names in the contract.
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=10)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    seed: Annotated[int | None, Field(ge=0, le=2**64 - 1)] = None
    stop_token_ids: Annotated[list[TokenId] | None, Field(max_length=64)] = None
    ignore_eos: bool | None = None
    priority: Annotated[int | None, Field(ge=-100, le=100)] = None
    session_id: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9._:-]{1,128}$")] = None
    labels: Annotated[dict[LabelKey, LabelValue] | None, Field(max_length=16)] = None
    adapter: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = None
    """A LoRA adapter of the model."""
    metadata: RequestMetadata | None = None

    diagnostics: Ignored = None
    fallback_credit_token: Ignored = None
    service_tier: Ignored = None
    container: Annotated[Any, Refused("the mesh has no containers")] = None
    fallbacks: Annotated[Any, Refused("the mesh tries no other models", unless=([],))] = None
    inference_geo: Annotated[Any, Refused("the mesh knows no regions")] = None
    thread: Annotated[Any, Refused("the mesh holds no conversations")] = None
