"""Converts between OpenAI's JSON and the contracts' messages."""

from __future__ import annotations

from collections.abc import Sequence

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.model.v1.model_pb2 import Model
from mlxmesh_gateway.openai.chat_schema import ChatRequest, Message
from mlxmesh_gateway.openai.completion_schema import CompletionRequest
from mlxmesh_gateway.openai.schema import GenerationFields, SamplingFields, TextPart
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

DEFAULT_TEMPERATURE = 1.0
"""OpenAI's; the contract's is 0."""
DEFAULT_COMPLETION_TOKENS = 16
"""OpenAI's, for text completions."""

_ROLES = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}

# Requests.


def chat_generation(request: ChatRequest, *, request_id: str = "") -> pb.GenerateRequest:
    """Raises: InvalidArgument, FeatureNotSupported."""
    return pb.GenerateRequest(
        model=request.model,
        chat=pb.ChatInput(messages=_messages(request.messages)),
        max_tokens=_max_tokens(request),
        n=request.n,
        request_id=request_id,
        **generation_options(request),
    )


def text_generation(request: CompletionRequest, *, request_id: str = "") -> pb.GenerateRequest:
    generation = pb.GenerateRequest(
        model=request.model,
        max_tokens=DEFAULT_COMPLETION_TOKENS if request.max_tokens is None else request.max_tokens,
        n=request.n,
        request_id=request_id,
        **generation_options(request),
    )
    if isinstance(request.prompt, str):
        generation.prompt = request.prompt
    else:
        generation.tokens.token_ids.extend(request.prompt)
        generation.tokens.SetInParent()
    return generation


def generation_options(request: SamplingFields) -> dict[str, object]:
    """Arguments of a GenerateRequest."""
    return {
        "sampling": sampling(request),
        "stop": request.stop,
        "stop_token_ids": request.stop_token_ids,
        "ignore_eos": request.ignore_eos,
        "priority": request.priority,
        "session_id": request.session_id,
        "adapter": request.adapter,
    }


def sampling(request: SamplingFields) -> Sampling:
    """With OpenAI's default temperature."""
    temperature = request.temperature
    return Sampling(
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=None if request.seed is None else request.seed % 2**64,
        logit_bias=request.logit_bias,
    )


def chat_message(role: str, content: Sequence[TextPart] | None, field: str) -> pb.ChatMessage:
    """A message; `field` is its path in the request. Raises: InvalidArgument, FeatureNotSupported."""
    if role not in _ROLES:
        raise FeatureNotSupported(f"{field}.role {role} is not supported", field=f"{field}.role")
    return pb.ChatMessage(role=_ROLES[role], content=_text(content, f"{field}.content"))


def _messages(messages: Sequence[Message]) -> list[pb.ChatMessage]:
    return [
        chat_message(one.role, one.content, f"messages.{number}")
        for number, one in enumerate(messages)
    ]


def _text(content: Sequence[TextPart] | None, field: str) -> str:
    """The texts of the parts, one after another, with nothing in between."""
    if content is None:
        raise InvalidArgument(f"{field} is required", field=field)
    for number, part in enumerate(content):
        if part.text is None:
            where = f"{field}.{number}"
            raise InvalidArgument(f"{where} must be a part with a text", field=where)
    return "".join(part.text or "" for part in content)


def _max_tokens(request: ChatRequest) -> int | None:
    """None for the contract's default. Raises: InvalidArgument."""
    new, old = request.max_completion_tokens, request.max_tokens
    if new is not None and old is not None and new != old:
        raise InvalidArgument(
            "max_tokens must not differ from max_completion_tokens, its newer name",
            field="max_tokens",
        )
    return old if new is None else new


def includes_usage(request: GenerationFields) -> bool:
    """Whether a stream ends with a chunk of token counts. Raises: InvalidArgument."""
    if request.stream_options is None:
        return False
    if not request.stream:
        raise InvalidArgument("stream_options need stream: true", field="stream_options")
    return bool(request.stream_options.include_usage)


# Responses.


def model_object(model: Model) -> dict[str, object]:
    """A model as OpenAI lists it."""
    return {"id": model.name, "object": "model", "created": 0, "owned_by": "mlxmesh"}
