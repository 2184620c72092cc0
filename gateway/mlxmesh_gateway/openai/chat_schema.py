"""The request of POST /v1/chat/completions, and how each of its fields is handled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema
from mlxmesh_gateway.openai.schema import (
    NOT_YET,
    Content,
    Effort,
    GenerationFields,
    Metadata,
    ReasoningFields,
    TopLogprobs,
    UInt32,
)
from mlxmesh_gateway.openai.tool_schema import (
    MAX_TOOLS,
    ChatTool,
    FunctionName,
    ToolChoiceField,
)

_TEXT_ONLY = "models here write text only"
_DEPRECATED = "it is deprecated; send tools and tool_choice"


class CalledFunction(Schema):
    """What was called, and with which arguments."""

    name: FunctionName
    arguments: str
    """JSON."""


class ToolCall(Schema):
    """A call that the model made."""

    id: Annotated[str, Field(json_schema_extra={"maxLength": 128})]
    type: str | None = None
    function: CalledFunction | None = None
    index: Annotated[Any, Harmless()] = None
    custom: Annotated[Any, Refused("only functions are")] = None


class Message(Schema):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: str | None = None
    """Of the tool, for the role tool."""
    tool_call_id: Annotated[str | None, Field(json_schema_extra={"maxLength": 128})] = None
    tool_calls: Annotated[
        list[ToolCall] | None, Field(json_schema_extra={"maxItems": MAX_TOOLS})
    ] = None
    reasoning_content: str | None = None
    function_call: Annotated[Any, Refused("it is deprecated; send tool_calls")] = None
    audio: Annotated[Any, Refused("models here read text only")] = None
    refusal: Annotated[Any, Refused("send it as content")] = None


class JsonSchema(Schema):
    """The JSON Schema of an output. It is enforced, whatever `strict` says."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    description: Annotated[str | None, Harmless()] = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: Annotated[bool | None, Harmless()] = None


class ResponseFormat(Schema):
    """The format of an output."""

    type: str
    """text, json_object or json_schema."""
    json_schema: JsonSchema | None = None


class TemplateOptions(Schema):
    """Options of the chat template."""

    enable_thinking: bool | None = None


class ChatRequest(GenerationFields):
    """A conversation to continue."""

    messages: list[Message]
    max_tokens: UInt32 | None = None
    max_completion_tokens: UInt32 | None = None
    response_format: ResponseFormat | None = None
    best_of: Annotated[Any, Refused("send n, and choose by logprobs", unless=(1,))] = None
    tools: Annotated[list[ChatTool] | None, Field(json_schema_extra={"maxItems": MAX_TOOLS})] = None
    tool_choice: ToolChoiceField = None
    parallel_tool_calls: bool | None = None
    logprobs: bool | None = None
    top_logprobs: TopLogprobs | None = None
    reasoning_effort: Effort | None = None
    metadata: Metadata | None = None
    """Pairs that can be labels are labels."""
    safety_identifier: str | None = None
    """The label `user`, without `user`."""
    # Options that OpenAI lacks.
    reasoning: ReasoningFields | None = None
    chat_template_kwargs: TemplateOptions | None = None

    prediction: Annotated[Any, Harmless()] = None
    prompt_cache_key: Annotated[Any, Harmless()] = None
    prompt_cache_options: Annotated[Any, Harmless()] = None
    prompt_cache_retention: Annotated[Any, Harmless()] = None

    audio: Annotated[Any, Refused(_TEXT_ONLY)] = None
    function_call: Annotated[Any, Refused(_DEPRECATED, unless=("none", "auto"))] = None
    functions: Annotated[Any, Refused(_DEPRECATED, unless=([],))] = None
    modalities: Annotated[Any, Refused(_TEXT_ONLY, unless=(["text"],))] = None
    moderation: Annotated[Any, Refused("the mesh does not moderate")] = None
    store: Annotated[Any, Refused("the mesh stores no answers", unless=(False,))] = None
    verbosity: Annotated[Any, Refused(NOT_YET, unless=("medium",))] = None
    web_search_options: Annotated[Any, Refused("models here search nothing")] = None
