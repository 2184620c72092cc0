"""The request of POST /v1/chat/completions, and how each of its fields is handled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mlxmesh_gateway.http.schema import Harmless, Refused, Schema
from mlxmesh_gateway.openai.schema import NOT_YET, Content, GenerationFields, UInt32

_TEXT_ONLY = "models here write text only"


class Message(Schema):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Content | None = None
    name: Annotated[
        str | None, Refused("chat templates have no place for it; write it into the content")
    ] = None
    tool_call_id: Annotated[str | None, Harmless()] = None
    tool_calls: Annotated[Any, Refused(NOT_YET, unless=([],))] = None
    function_call: Annotated[Any, Refused("it is deprecated")] = None
    audio: Annotated[Any, Refused("models here read text only")] = None
    refusal: Annotated[Any, Refused("send it as content")] = None


class ChatRequest(GenerationFields):
    """A conversation to continue."""

    messages: list[Message]
    max_tokens: UInt32 | None = None
    max_completion_tokens: UInt32 | None = None

    metadata: Annotated[Any, Harmless()] = None
    parallel_tool_calls: Annotated[Any, Harmless()] = None
    prediction: Annotated[Any, Harmless()] = None
    prompt_cache_key: Annotated[Any, Harmless()] = None
    prompt_cache_options: Annotated[Any, Harmless()] = None
    prompt_cache_retention: Annotated[Any, Harmless()] = None
    safety_identifier: Annotated[Any, Harmless()] = None
    service_tier: Annotated[Any, Harmless()] = None

    audio: Annotated[Any, Refused(_TEXT_ONLY)] = None
    function_call: Annotated[Any, Refused("it is deprecated", unless=("none", "auto"))] = None
    functions: Annotated[Any, Refused("it is deprecated", unless=([],))] = None
    logprobs: Annotated[Any, Refused(NOT_YET, unless=(False,))] = None
    modalities: Annotated[Any, Refused(_TEXT_ONLY, unless=(["text"],))] = None
    moderation: Annotated[Any, Refused("the mesh does not moderate")] = None
    reasoning_effort: Annotated[Any, Refused(NOT_YET, unless=("none",))] = None
    response_format: Annotated[Any, Refused(NOT_YET, unless=({"type": "text"},))] = None
    store: Annotated[Any, Refused("the mesh stores no answers", unless=(False,))] = None
    tool_choice: Annotated[Any, Refused(NOT_YET, unless=("none", "auto"))] = None
    tools: Annotated[Any, Refused(NOT_YET, unless=([],))] = None
    top_logprobs: Annotated[Any, Refused(NOT_YET, unless=(0,))] = None
    verbosity: Annotated[Any, Refused(NOT_YET, unless=("medium",))] = None
    web_search_options: Annotated[Any, Refused("models here search nothing")] = None
