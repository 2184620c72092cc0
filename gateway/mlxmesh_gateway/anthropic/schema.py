"""The requests of Anthropic's Messages API, and how each of their fields is handled.

Ranges are those of the contract, under the names of this API.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema

NOT_YET = "this version does not support it yet"
_MAX_MESSAGES = 10_000

TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]
StopText = Annotated[str, Field(min_length=1, max_length=256)]
Ignored = Annotated[Any, Harmless()]
NotYet = Annotated[Any, Refused(NOT_YET)]

BlockType = Literal[
    "text",
    "image",
    "document",
    "search_result",
    "thinking",
    "redacted_thinking",
    "tool_use",
    "tool_result",
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "mcp_tool_use",
    "mcp_tool_result",
    "container_upload",
    "compaction",
]


class Block(Schema):
    """A block of content. Only text is honoured."""

    type: Annotated[BlockType, Refused("this version reads text only", unless=("text",))]
    text: str | None = None
    cache_control: Ignored = None
    citations: Ignored = None


def _as_blocks(value: object) -> object:
    if isinstance(value, str):
        return [{"type": "text", "text": value}]
    if isinstance(value, list):
        return cast("object", value)
    raise ValueError("must be a text or a list of blocks")


Content = Annotated[
    list[Block], BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block])
]
"""A text, or blocks."""


class Message(Schema):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Content


_NO_EDITS: dict[str, Any] = {"edits": []}
_KEEP_ALL: dict[str, Any] = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
"""What Claude Code sends even when nothing is to be cleared."""


class Thinking(Schema):
    """How the model thinks before it answers."""

    type: Annotated[
        Literal["disabled", "enabled", "adaptive", "between_tools"],
        Refused(NOT_YET, unless=("disabled",)),
    ]
    budget_tokens: Ignored = None
    display: Ignored = None


class ToolChoice(Schema):
    """How the model uses tools. Without tools, `auto` and `none` change nothing."""

    type: Annotated[
        Literal["auto", "none", "any", "tool"], Refused(NOT_YET, unless=("auto", "none"))
    ]
    name: Ignored = None
    disable_parallel_tool_use: Ignored = None


class OutputConfig(Schema):
    """The form of the output."""

    effort: Annotated[Any, Refused(NOT_YET, unless=("high",))] = None
    """`high` is the same as no effort given."""
    format: NotYet = None
    task_budget: NotYet = None


class Conversation(Schema):
    """The input of a model."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)]
    system: Content | None = None
    tools: Annotated[Any, Refused(NOT_YET, unless=([],))] = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: NotYet = None
    compaction: NotYet = None
    context_management: Annotated[Any, Refused(NOT_YET, unless=(_KEEP_ALL, _NO_EDITS))] = None
    mcp_servers: Annotated[Any, Refused(NOT_YET, unless=([],))] = None
    speed: Annotated[Any, Refused("the mesh has one speed", unless=("standard",))] = None
    billing_policy: Ignored = None
    cache_control: Ignored = None
    user_profile_id: Ignored = None


class CountRequest(Conversation):
    """POST /v1/messages/count_tokens."""


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
    session_id: NotYet = None
    adapter: NotYet = None

    diagnostics: Ignored = None
    fallback_credit_token: Ignored = None
    metadata: Ignored = None
    service_tier: Ignored = None
    container: Annotated[Any, Refused("the mesh has no containers")] = None
    fallbacks: Annotated[Any, Refused("the mesh tries no other models", unless=([],))] = None
    inference_geo: Annotated[Any, Refused("the mesh knows no regions")] = None
    thread: Annotated[Any, Refused("the mesh holds no conversations")] = None
