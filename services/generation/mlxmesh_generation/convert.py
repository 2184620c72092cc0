"""Wire messages to domain objects and back."""

import re
import secrets
from array import array
from collections.abc import Sequence
from hashlib import sha256

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.engine.v1.engine_pb2 import SequenceOutput, SequenceTimings, Submit
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    CompleteResponse,
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    ResumeGenerationRequest,
)
from mlxmesh.model.v1 import model_pb2
from mlxmesh_generation.catalogue import CatalogueChange, Model, ModelVersion
from mlxmesh_generation.request import (
    Chat,
    ChatTurn,
    CountRequest,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    PromptInput,
    PromptText,
    PromptTokens,
    Resumed,
    Started,
    Timings,
)
from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.error_status import from_failure

_ROLES: dict[int, str] = {
    generation_pb2.ROLE_SYSTEM: "system",
    generation_pb2.ROLE_USER: "user",
    generation_pb2.ROLE_ASSISTANT: "assistant",
    generation_pb2.ROLE_TOOL: "tool",
}
_REASONS_OUT = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
}
_REASONS_IN: dict[int, FinishReason] = {
    engine_pb2.ENGINE_FINISH_REASON_STOP: FinishReason.STOP,
    engine_pb2.ENGINE_FINISH_REASON_LENGTH: FinishReason.LENGTH,
    engine_pb2.ENGINE_FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
}
_NO_LIMIT = 2**32
# As made below: it may come back with a generation that goes on here.
_MADE_UP_ID = re.compile("gen-[0-9a-f]{16}")

# From callers.


def generation_request(
    message: GenerateRequest, *, caller: str = "", owner: str = ""
) -> GenerationRequest:
    """Gives a request without an id a new one."""
    is_callers = bool(message.request_id) and not _MADE_UP_ID.fullmatch(message.request_id)
    return GenerationRequest(
        request_id=message.request_id or f"gen-{secrets.token_hex(8)}",
        digest=_digest(message) if is_callers else None,
        model=ModelReference.parse(message.model),
        input=prompt_input(message),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        sampling=message.sampling,
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        priority=message.priority,
        caller=caller,
        owner=owner,
        message_bytes=message.ByteSize(),
    )


def count_request(message: CountTokensRequest, *, caller: str = "") -> CountRequest:
    return CountRequest(
        model=ModelReference.parse(message.model),
        input=prompt_input(message),
        caller=caller,
        message_bytes=message.ByteSize(),
    )


def resumed(message: ResumeGenerationRequest) -> Resumed:
    return Resumed(
        token_ids=array("I", message.generated_token_ids),
        text_characters=message.text_characters,
        after_sequence=message.after_sequence,
        resumptions=message.resumptions,
    )


def _digest(message: GenerateRequest) -> bytes:
    return sha256(message.SerializeToString(deterministic=True)).digest()


def prompt_input(message: GenerateRequest | CountTokensRequest) -> PromptInput:
    if message.HasField("prompt"):
        return PromptText(message.prompt)
    if message.HasField("chat"):
        return _chat(message.chat)
    if isinstance(message, GenerateRequest) and message.HasField("tokens"):
        return PromptTokens(array("I", message.tokens.token_ids))
    raise InvalidArgument("input: set what the model should continue", field="input")


def _chat(message: generation_pb2.ChatInput) -> Chat:
    opens = message.add_generation_prompt if message.HasField("add_generation_prompt") else True
    turns = tuple(
        ChatTurn(_role(turn.role, index), turn.content)
        for index, turn in enumerate(message.messages)
    )
    return Chat(turns, add_generation_prompt=opens)


def _role(role: int, index: int) -> str:
    try:
        return _ROLES[role]
    except KeyError:
        field = f"chat.messages[{index}].role"
        raise InvalidArgument(f"{field}: {role} is not a known role", field=field) from None


# To callers.


def generate_response(sequence: int, event: Event) -> GenerateResponse:
    if isinstance(event, Delta):
        # Filled in place: a message handed to another's constructor is copied.
        response = GenerateResponse(sequence=sequence)
        response.delta.text = event.text
        response.delta.token_ids.extend(event.token_ids)
        return response
    if isinstance(event, Started):
        return GenerateResponse(sequence=sequence, started=_started(event))
    if isinstance(event, PrefillProgress):
        progress = generation_pb2.PrefillProgress(
            processed_tokens=event.processed_tokens, total_tokens=event.total_tokens
        )
        return GenerateResponse(sequence=sequence, prefill_progress=progress)
    return GenerateResponse(sequence=sequence, finished=_finished(event))


def add_to_complete(response: CompleteResponse, event: Event) -> str:
    """Adds a generation's next event to what it comes to as one message; returns its text."""
    if isinstance(event, Delta):
        response.token_ids.extend(event.token_ids)
        return event.text
    if isinstance(event, Started):
        response.started.CopyFrom(_started(event))
    elif isinstance(event, Finished):
        response.finished.CopyFrom(_finished(event))
    return ""


def _started(event: Started) -> generation_pb2.Started:
    return generation_pb2.Started(
        request_id=event.request_id,
        model=event.model,
        model_version=event.model_version,
        engine_id=event.engine_id,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        seed=event.seed,
    )


def _finished(event: Finished) -> generation_pb2.Finished:
    message = generation_pb2.Finished(
        finish_reason=_REASONS_OUT[event.reason],
        usage=generation_pb2.Usage(
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            completion_tokens=event.completion_tokens,
        ),
        timings=generation_pb2.Timings(
            queue_ms=event.timings.queue_ms,
            prefill_ms=event.timings.prefill_ms,
            decode_ms=event.timings.decode_ms,
            resumptions=event.resumptions,
        ),
    )
    if event.stop_text is not None:
        message.stop_text = event.stop_text
    elif event.stop_token_id is not None:
        message.stop_token_id = event.stop_token_id
    return message


# To and from engines.


def to_submit(
    request: GenerationRequest,
    *,
    prompt_token_ids: Sequence[int],
    max_tokens: int,
    seed: int,
    timeout_ms: int | None,
) -> Submit:
    """Without a sequence id, which the link gives."""
    sampling = Sampling()
    sampling.CopyFrom(request.sampling)
    sampling.seed = seed
    return Submit(
        prompt_token_ids=prompt_token_ids,
        sampling=sampling,
        max_tokens=max_tokens,
        stop_token_ids=request.stop_token_ids,
        ignore_eos=request.ignore_eos,
        timeout_ms=timeout_ms,
        priority=request.priority,
        caller=request.caller,
    )


def stopped(output: SequenceOutput) -> bool:
    """Whether the last of its tokens is an end or stop token."""
    return output.finish_reason == engine_pb2.ENGINE_FINISH_REASON_STOP


def finish_reason(output: SequenceOutput) -> FinishReason:
    return _REASONS_IN[output.finish_reason]


def timings(message: SequenceTimings) -> Timings:
    return Timings(message.queue_ms, message.prefill_ms, message.decode_ms)


def engine_failure(failure: Failure, request: GenerationRequest) -> MeshError:
    """An engine's failure in the words of the caller's contract."""
    error = from_failure(failure)
    is_default = error.field == "max_tokens" and request.max_tokens is None
    if is_default or error.field.startswith("prompt_token_ids"):
        error.field = request.input.field
    return error


# From the model service.


def catalogue_change(message: model_pb2.WatchModelsResponse) -> CatalogueChange:
    return CatalogueChange(
        sequence=message.sequence,
        model=_model(message.model) if message.HasField("model") else None,
        removed_name=message.removed_name if message.HasField("removed_name") else None,
        synced=message.HasField("synced"),
    )


def _model(message: model_pb2.Model) -> Model:
    return Model(
        name=message.name,
        versions={version.version: _version(message.name, version) for version in message.versions},
        default_version=message.default_version,
        aliases=dict(message.aliases),
    )


def _version(name: str, message: model_pb2.ModelVersion) -> ModelVersion:
    return ModelVersion(
        name=name,
        version=message.version,
        digest=message.digest,
        # 0 is a limit that the catalogue does not know: then the engine's own check decides.
        context_tokens=message.context_tokens or _NO_LIMIT,
        vocab_size=message.vocab_size or _NO_LIMIT,
        desired_replicas=message.desired_replicas,
    )
