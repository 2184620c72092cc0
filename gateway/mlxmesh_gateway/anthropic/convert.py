"""Converts between Anthropic's JSON and the contracts' messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.model.v1.model_pb2 import Model, ModelVersion
from mlxmesh_gateway.anthropic.events import (
    Event,
    InputTokens,
    Stop,
    first_events,
    last_events,
    text_event,
    whole_message,
)
from mlxmesh_gateway.anthropic.schema import Block, Conversation, CountRequest, MessageRequest
from mlxmesh_shared.errors import FeatureNotSupported, GenerationCancelled, InvalidArgument
from mlxmesh_shared.reference import ModelReference

DEFAULT_TEMPERATURE = 1.0
"""Anthropic's; the contract's is 0."""
PARAGRAPH = "\n\n"
"""Between the blocks of a turn, and between turns of one role in a row."""

_ROLES = {"system": pb.ROLE_SYSTEM, "user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT}

# Requests.


def generate_request(request: MessageRequest, *, request_id: str = "") -> pb.GenerateRequest:
    """Raises: InvalidArgument, FeatureNotSupported."""
    return pb.GenerateRequest(
        model=request.model,
        chat=_chat(request),
        max_tokens=request.max_tokens,
        sampling=_sampling(request),
        stop=request.stop_sequences,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=bool(request.ignore_eos),
        priority=request.priority or 0,
        request_id=request_id,
    )


def count_request(request: CountRequest) -> pb.CountTokensRequest:
    """Raises: InvalidArgument, FeatureNotSupported."""
    return pb.CountTokensRequest(model=request.model, chat=_chat(request))


def _sampling(request: MessageRequest) -> Sampling:
    temperature = request.temperature
    return Sampling(
        temperature=DEFAULT_TEMPERATURE if temperature is None else temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed,
    )


def _chat(request: Conversation) -> pb.ChatInput:
    if request.messages[-1].role == "assistant":
        field = f"messages.{len(request.messages) - 1}.role"
        raise FeatureNotSupported(
            f"{field} is not supported: chat templates end an assistant's message, so none can be"
            " continued; the last message must be the user's",
            field=field,
        )
    turns = groupby(_turns(request), key=lambda turn: turn[0])
    messages = [
        pb.ChatMessage(role=_ROLES[role], content=PARAGRAPH.join(text for _, text in texts))
        for role, texts in turns
    ]
    return pb.ChatInput(messages=messages)


def _turns(request: Conversation) -> Iterator[tuple[str, str]]:
    """Role and text of each turn; no system prompt is the same as an empty one."""
    if system := _text(request.system or [], "system"):
        yield "system", system
    for number, message in enumerate(request.messages):
        yield message.role, _text(message.content, f"messages.{number}.content")


def _text(blocks: Sequence[Block], path: str) -> str:
    texts: list[str] = []
    for number, block in enumerate(blocks):
        if block.text is None:
            field = f"{path}.{number}.text"
            raise InvalidArgument(f"{field} is required", field=field)
        texts.append(block.text)
    return PARAGRAPH.join(texts)


# Responses.


def message_object(response: pb.CompleteResponse) -> dict[str, object]:
    """A whole response. Raises: GenerationCancelled."""
    started, finished = response.started, response.finished
    return whole_message(
        started.request_id,
        _version(started),
        response.text,
        _stop(finished),
        _input_tokens(finished.usage),
        finished.usage.completion_tokens,
    )


def stream_events(message: pb.GenerateResponse) -> list[Event]:
    """The events of one message of a stream. Raises: GenerationCancelled."""
    if message.HasField("delta"):
        text = message.delta.text
        return [text_event(text)] if text else []
    if message.HasField("started"):
        started = message.started
        return first_events(started.request_id, _version(started), _input_tokens(started))
    if message.HasField("finished"):
        finished = message.finished
        usage = finished.usage
        return last_events(_stop(finished), _input_tokens(usage), usage.completion_tokens)
    return []


def _input_tokens(counts: pb.Started | pb.Usage) -> InputTokens:
    return InputTokens(counts.prompt_tokens, counts.cached_tokens)


def _version(started: pb.Started) -> str:
    """The version that generated; a model reference too."""
    return f"{started.model}@{started.model_version}"


def _stop(finished: pb.Finished) -> Stop:
    reason = finished.finish_reason
    if reason == pb.FINISH_REASON_CANCELLED:
        raise GenerationCancelled("the generation was cancelled by another call")
    if reason == pb.FINISH_REASON_LENGTH:
        return Stop("max_tokens")
    if finished.WhichOneof("stopped_by") == "stop_text":
        return Stop("stop_sequence", finished.stop_text)
    return Stop("end_turn")


# Models.


def references(model: Model) -> list[str]:
    """What a model may be called: its name, and the name with each alias."""
    aliases = sorted(model.aliases.keys() - {"default"})
    return [model.name, *(f"{model.name}:{alias}" for alias in aliases)]


def model_object(model: Model, reference: str) -> dict[str, object]:
    """The version that a reference of the model stands for, as Anthropic lists models."""
    version = _referenced(model, reference)
    tokens = version.context_tokens or None
    return {
        "type": "model",
        "id": reference,
        "display_name": reference,
        "created_at": version.create_time.ToJsonString(),
        "lifecycle": "active",
        "max_input_tokens": tokens,
        "max_tokens": tokens,
    }


def _referenced(model: Model, reference: str) -> ModelVersion:
    """An empty version where the model has none, which is created at the epoch."""
    parsed = ModelReference.parse(reference)
    number = parsed.version or model.aliases.get(parsed.alias or "", model.default_version)
    return next((one for one in model.versions if one.version == number), ModelVersion())
