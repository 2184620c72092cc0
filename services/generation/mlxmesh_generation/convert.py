"""Converts the messages of the generation service: requests to domain objects, events back."""

import re
import secrets
from array import array
from hashlib import sha256

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    AttachGenerationRequest,
    CompleteResponse,
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    GetGenerationResponse,
    ResumeGenerationRequest,
)
from mlxmesh_generation.domain.request import (
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
    PromptLogprobs,
    PromptText,
    PromptTokens,
    ReceivedOutput,
    Resumed,
    SamplingOptions,
    Snapshot,
    Started,
    TokenLogprob,
)
from mlxmesh_generation.parsers.choose import OutputFormat
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.rpc.error_status import to_failure

_ROLES: dict[int, str] = {
    generation_pb2.ROLE_SYSTEM: "system",
    generation_pb2.ROLE_USER: "user",
    generation_pb2.ROLE_ASSISTANT: "assistant",
    generation_pb2.ROLE_TOOL: "tool",
}
_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
    FinishReason.TOOL_CALLS: generation_pb2.FINISH_REASON_TOOL_CALLS,
}
# The form of the ids below: one may come back when its generation is resumed here.
_OWN_ID = re.compile("gen-[0-9a-f]{16}")

# Requests.


def generation_request(
    message: GenerateRequest, *, caller: str = "", owner: str = ""
) -> GenerationRequest:
    """Assigns an id to a request that has none."""
    is_callers = bool(message.request_id) and not _OWN_ID.fullmatch(message.request_id)
    _check_retention(message, is_callers=is_callers)
    return GenerationRequest(
        request_id=message.request_id or f"gen-{secrets.token_hex(8)}",
        digest=_digest(message) if is_callers else None,
        model=ModelReference.parse(message.model),
        input=prompt_input(message),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        sampling=sampling_options(message.sampling),
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
        priority=message.priority,
        caller=caller,
        owner=owner,
        message_bytes=message.ByteSize(),
        detached=message.detached,
        kept=message.SerializeToString() if message.keep_request else b"",
    )


def _check_retention(message: GenerateRequest, *, is_callers: bool) -> None:
    """Raises: InvalidArgument for a field that lacks the one that it needs."""
    for field in ("detached", "keep_request"):
        if getattr(message, field) and not is_callers:
            raise InvalidArgument(f"{field}: it needs a request_id of yours", field=field)
    if message.client_data and not message.keep_request:
        raise InvalidArgument("client_data: it needs keep_request", field="client_data")


def sampling_options(message: Sampling) -> SamplingOptions:
    return SamplingOptions(
        encoded=message.SerializeToString(),
        seed=message.seed if message.HasField("seed") else None,
        biased_token_ids=tuple(message.logit_bias),
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
        outputs={one.index: _received_output(one) for one in message.outputs},
        prompt_logprobs=message.prompt_logprobs,
        after_sequence=message.after_sequence,
        resumptions=message.resumptions,
        started=_resumed_started(message.started) if message.HasField("started") else None,
        received=_received(message),
    )


def _received_output(message: generation_pb2.ReceivedOutput) -> ReceivedOutput:
    return ReceivedOutput(
        token_ids=array("I", message.token_ids),
        text_characters=message.text_characters,
        reasoning_characters=message.reasoning_characters,
        tool_calls=message.tool_calls,
        arguments_characters=message.arguments_characters,
    )


def _received(message: ResumeGenerationRequest) -> list[Event]:
    """Raises: InvalidArgument unless they are all messages, or none."""
    numbers = [one.sequence for one in message.received]
    if numbers and numbers != list(range(1, message.after_sequence + 1)):
        raise InvalidArgument(
            "received: it must have every message up to after_sequence", field="received"
        )
    return [_event(one) for one in message.received]


def _event(message: GenerateResponse) -> Event:
    if message.HasField("delta"):
        return Delta(message.delta.text, tuple(message.delta.token_ids))
    if message.HasField("started"):
        return _resumed_started(message.started)
    progress = message.prefill_progress
    return PrefillProgress(progress.processed_tokens, progress.total_tokens)


def _resumed_started(message: generation_pb2.Started) -> Started:
    return Started(
        request_id=message.request_id,
        model=message.model,
        model_version=message.model_version,
        engine_id=message.engine_id,
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        seed=message.seed,
        created_ms=message.create_time.ToMilliseconds(),
    )


def attached_digest(message: AttachGenerationRequest) -> bytes | None:
    """None when the caller did not say what it requested."""
    return _digest(message.generation) if message.HasField("generation") else None


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


# Events.


def generate_response(sequence: int, event: Event) -> GenerateResponse:
    if isinstance(event, Delta):
        # Filled in place: a message constructor copies the messages that it is passed.
        response = GenerateResponse(sequence=sequence)
        response.delta.text = event.text
        response.delta.token_ids.extend(event.token_ids)
        return response
    if isinstance(event, Started):
        return GenerateResponse(sequence=sequence, started=started(event))
    if isinstance(event, PrefillProgress):
        return GenerateResponse(sequence=sequence, prefill_progress=_progress(event))
    if isinstance(event, PromptLogprobs):
        message = generation_pb2.PromptLogprobs(tokens=map(token_logprob, event.tokens))
        return GenerateResponse(sequence=sequence, prompt_logprobs=message)
    return GenerateResponse(sequence=sequence, finished=_finished(event))


def get_response(snapshot: Snapshot) -> GetGenerationResponse:
    """A generation as far as it has come."""
    response = GetGenerationResponse()
    if snapshot.request:
        response.generation.ParseFromString(snapshot.request)
    response.text = "".join(add_to_complete(response, event) for event in snapshot.events)
    if snapshot.error is not None:
        response.failure.CopyFrom(to_failure(snapshot.error))
    return response


def add_to_complete(response: CompleteResponse | GetGenerationResponse, event: Event) -> str:
    """Adds an event to the one message of a whole generation; returns the event's text."""
    if isinstance(event, Delta):
        response.token_ids.extend(event.token_ids)
        return event.text
    if isinstance(event, Started):
        response.started.CopyFrom(started(event))
    elif isinstance(event, Finished):
        response.finished.CopyFrom(_finished(event))
    elif isinstance(event, PromptLogprobs):
        response.prompt_logprobs.extend(map(token_logprob, event.tokens))
    elif isinstance(response, GetGenerationResponse):
        response.prefill_progress.CopyFrom(_progress(event))
    return ""


def output_format_response(chosen: OutputFormat) -> generation_pb2.GetOutputFormatResponse:
    return generation_pb2.GetOutputFormatResponse(
        tool_format=chosen.tools.name,
        tool_reason=chosen.tools.reason,
        reasoning_format=chosen.reasoning.name,
        reasoning_reason=chosen.reasoning.reason,
        reasoning_switch=chosen.switch is not None,
        reasoning_effort=bool(chosen.effort),
    )


def started(event: Started) -> generation_pb2.Started:
    message = generation_pb2.Started(
        request_id=event.request_id,
        model=event.model,
        model_version=event.model_version,
        engine_id=event.engine_id,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        seed=event.seed,
    )
    if event.created_ms:
        message.create_time.FromMilliseconds(event.created_ms)
    return message


def token_logprob(token: TokenLogprob) -> generation_pb2.TokenLogprob:
    return generation_pb2.TokenLogprob(
        token_id=token.token_id,
        logprob=token.logprob,
        bytes=token.text,
        top=map(token_logprob, token.top),
    )


def _progress(event: PrefillProgress) -> generation_pb2.PrefillProgress:
    return generation_pb2.PrefillProgress(
        processed_tokens=event.processed_tokens, total_tokens=event.total_tokens
    )


def _finished(event: Finished) -> generation_pb2.Finished:
    message = generation_pb2.Finished(
        finish_reason=_REASONS[event.reason],
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
