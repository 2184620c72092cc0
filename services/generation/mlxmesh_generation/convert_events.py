"""Converts the events of generations to messages, and back for those of another process."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from mlxmesh.generation.v1 import generation_pb2
from mlxmesh.generation.v1.generation_pb2 import (
    CompleteResponse,
    GenerateResponse,
    GetGenerationResponse,
    Output,
    ToolCall,
    Usage,
)
from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.ensemble import Step
from mlxmesh_generation.domain.request import (
    CallPiece,
    Delta,
    Event,
    Finished,
    FinishReason,
    PrefillProgress,
    PromptLogprobs,
    Snapshot,
    Started,
    Timings,
    TokenLogprob,
    TotalUsage,
)
from mlxmesh_generation.domain.routing import Assignment
from mlxmesh_generation.parsers.choose import OutputFormat
from mlxmesh_shared.errors import MessageTooLarge
from mlxmesh_shared.rpc.error_status import to_failure

MAX_WHOLE_BYTES = 24 * 2**20
"""Of one message with all outputs, by estimate; gateways receive 32 MiB."""
_TOKEN_BYTES = 4
# Without the bytes of its text.
_LOGPROB_BYTES = 14

_REASONS = {
    FinishReason.STOP: generation_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: generation_pb2.FINISH_REASON_CANCELLED,
    FinishReason.TOOL_CALLS: generation_pb2.FINISH_REASON_TOOL_CALLS,
}
_REASONS_BACK: dict[int, FinishReason] = {value: reason for reason, value in _REASONS.items()}

# To messages.


def generate_response(sequence: int, event: Event, numbering: int = 0) -> GenerateResponse:
    """numbering: of the message; 0 for none."""
    if isinstance(event, Delta):
        # Filled in place: a message constructor copies the messages that it is passed.
        response = GenerateResponse(sequence=sequence, numbering=numbering)
        delta = response.delta
        delta.text = event.text
        delta.token_ids.extend(event.token_ids)
        if event.index:
            delta.index = event.index
        if event.reasoning or event.calls:
            delta.reasoning_text = event.reasoning
            delta.tool_calls.extend(map(_tool_call, event.calls))
        if event.logprobs:
            delta.logprobs.extend(map(token_logprob, event.logprobs))
        return response
    response = GenerateResponse(sequence=sequence, numbering=numbering)
    if isinstance(event, Started):
        response.started.CopyFrom(started(event))
    elif isinstance(event, PrefillProgress):
        response.prefill_progress.CopyFrom(_progress(event))
    elif isinstance(event, PromptLogprobs):
        response.prompt_logprobs.SetInParent()
        response.prompt_logprobs.tokens.extend(map(token_logprob, event.tokens))
    else:
        response.finished.CopyFrom(_finished(event))
    return response


def get_response(snapshot: Snapshot) -> GetGenerationResponse:
    """A generation as far as it has come."""
    response = GetGenerationResponse()
    if snapshot.request:
        response.generation.ParseFromString(snapshot.request)
    whole = WholeOutputs(response)
    for event in snapshot.events:
        whole.add(event)
    whole.complete()
    if snapshot.error is not None:
        response.failure.CopyFrom(to_failure(snapshot.error))
    response.numbering, response.takeover = snapshot.numbering, snapshot.takeover
    response.last_sequence = snapshot.last_sequence
    return response


class WholeOutputs:
    """Joins the events of a generation in the one message of all its outputs."""

    def __init__(self, response: CompleteResponse | GetGenerationResponse) -> None:
        self._response = response
        self._size_bytes = response.ByteSize()
        # By output, and by output and call.
        self._texts: defaultdict[int, list[str]] = defaultdict(list)
        self._reasoning: defaultdict[int, list[str]] = defaultdict(list)
        self._arguments: defaultdict[tuple[int, int], list[str]] = defaultdict(list)

    def add(self, event: Event) -> None:
        """Raises: MessageTooLarge."""
        response = self._response
        self._size_bytes += _wire_bytes(event)
        if self._size_bytes > MAX_WHOLE_BYTES:
            raise MessageTooLarge(
                f"the outputs together exceed {MAX_WHOLE_BYTES} bytes, too much for one message; "
                "read them as a stream with Generate or AttachGeneration, or ask for less"
            )
        if isinstance(event, Delta):
            self._add_delta(event)
        elif isinstance(event, Started):
            response.started.CopyFrom(started(event))
        elif isinstance(event, Finished):
            self._add_end(event)
        elif isinstance(event, PromptLogprobs):
            response.prompt_logprobs.extend(map(token_logprob, event.tokens))
        elif isinstance(response, GetGenerationResponse):
            response.prefill_progress.CopyFrom(_progress(event))

    def complete(self) -> None:
        """Fills in what was gathered; call it after the last event."""
        for index, texts in self._texts.items():
            self._output(index).text = "".join(texts)
        for index, texts in self._reasoning.items():
            self._output(index).reasoning_text = "".join(texts)
        for (index, call), texts in self._arguments.items():
            self._output(index).tool_calls[call].arguments = "".join(texts)

    def _add_delta(self, delta: Delta) -> None:
        output = self._output(delta.index)
        output.token_ids.extend(delta.token_ids)
        output.logprobs.extend(map(token_logprob, delta.logprobs))
        self._texts[delta.index].append(delta.text)
        self._reasoning[delta.index].append(delta.reasoning)
        for piece in delta.calls:
            if piece.index == len(output.tool_calls):
                output.tool_calls.add(index=piece.index, id=piece.call_id, name=piece.name)
            self._arguments[delta.index, piece.index].append(piece.arguments)

    def _add_end(self, finished: Finished) -> None:
        message = _finished(finished)
        if message.HasField("total_usage"):
            self._response.finished.MergeFrom(
                generation_pb2.Finished(
                    total_usage=message.total_usage,
                    cost=message.cost,
                    steps=message.steps,
                    device_ms=message.device_ms,
                )
            )
            for field in ("total_usage", "cost", "steps", "device_ms"):
                message.ClearField(field)
        self._output(finished.index).finished.MergeFrom(message)

    def _output(self, index: int) -> CompleteResponse | GetGenerationResponse | Output:
        others = self._response.other_outputs
        while len(others) < index:
            others.add(index=len(others) + 1)
        return others[index - 1] if index else self._response


def _wire_bytes(event: Event) -> int:
    """About as many bytes as an event adds to a message of whole outputs."""
    if isinstance(event, PromptLogprobs):
        return _logprobs_bytes(event.tokens)
    if not isinstance(event, Delta):
        return 0
    texts = (event.text, event.reasoning, *(call.arguments for call in event.calls))
    size = sum(map(_text_bytes, texts)) + _TOKEN_BYTES * len(event.token_ids)
    return size + _logprobs_bytes(event.logprobs)


def _text_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _logprobs_bytes(tokens: Sequence[TokenLogprob]) -> int:
    every = chain(tokens, *(token.top for token in tokens))
    return sum(_LOGPROB_BYTES + len(token.text) for token in every)


def started(event: Started) -> generation_pb2.Started:
    message = generation_pb2.Started(
        request_id=event.request_id,
        model=event.model,
        model_version=event.model_version,
        engine_id=event.engine_id,
        prompt_tokens=event.prompt_tokens,
        cached_tokens=event.cached_tokens,
        seed=event.seed,
        arm=event.assignment.arm,
        rollout_id=event.assignment.rollout_id,
        experiment_id=event.assignment.experiment_id,
        subject_hash=event.assignment.subject_hash,
        ensemble=event.ensemble,
        steps=map(_step, event.steps),
    )
    if event.adapter is not None:
        message.adapter.name = event.adapter.name
        message.adapter.digest = event.adapter.digest
        message.adapter.directory = event.adapter.directory
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


def _tool_call(piece: CallPiece) -> ToolCall:
    return ToolCall(index=piece.index, id=piece.call_id, name=piece.name, arguments=piece.arguments)


def _progress(event: PrefillProgress) -> generation_pb2.PrefillProgress:
    return generation_pb2.PrefillProgress(
        processed_tokens=event.processed_tokens, total_tokens=event.total_tokens
    )


def _finished(event: Finished) -> generation_pb2.Finished:
    message = generation_pb2.Finished(
        index=event.index,
        finish_reason=_REASONS[event.reason],
        usage=Usage(
            prompt_tokens=event.prompt_tokens,
            cached_tokens=event.cached_tokens,
            completion_tokens=event.completion_tokens,
            reasoning_tokens=event.reasoning_tokens,
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
    if event.total is not None:
        message.total_usage.CopyFrom(
            Usage(
                prompt_tokens=event.prompt_tokens
                if event.total.prompt_tokens is None
                else event.total.prompt_tokens,
                cached_tokens=event.total.cached_tokens,
                completion_tokens=event.total.completion_tokens,
                reasoning_tokens=event.total.reasoning_tokens,
            )
        )
        message.device_ms = event.total.device_ms
    if event.cost:
        message.cost = event.cost
    message.steps.extend(map(_step, event.steps))
    return message


def _step(step: Step) -> generation_pb2.EnsembleStep:
    return generation_pb2.EnsembleStep(
        model=step.model,
        model_version=step.version,
        chosen=step.chosen,
        reason=step.reason,
        score=step.score,
        usage=Usage(
            prompt_tokens=step.prompt_tokens,
            cached_tokens=step.cached_tokens,
            completion_tokens=step.completion_tokens,
            reasoning_tokens=step.reasoning_tokens,
        ),
        device_ms=step.device_ms,
        cost=step.cost,
    )


# From messages of another process.


def event_of(message: GenerateResponse) -> Event:
    if message.HasField("delta"):
        return _delta_of(message.delta)
    if message.HasField("started"):
        return started_of(message.started)
    if message.HasField("finished"):
        return finished_of(message.finished)
    if message.HasField("prompt_logprobs"):
        return PromptLogprobs(tuple(map(_token_logprob_of, message.prompt_logprobs.tokens)))
    progress = message.prefill_progress
    return PrefillProgress(progress.processed_tokens, progress.total_tokens)


def _delta_of(message: generation_pb2.Delta) -> Delta:
    return Delta(
        message.text,
        tuple(message.token_ids),
        message.index,
        message.reasoning_text,
        tuple(
            CallPiece(call.index, call.id, call.name, call.arguments) for call in message.tool_calls
        ),
        tuple(map(_token_logprob_of, message.logprobs)),
    )


def _token_logprob_of(message: generation_pb2.TokenLogprob) -> TokenLogprob:
    return TokenLogprob(
        message.token_id,
        message.logprob if message.HasField("logprob") else None,
        message.bytes,
        tuple(map(_token_logprob_of, message.top)),
    )


def started_of(message: generation_pb2.Started) -> Started:
    return Started(
        request_id=message.request_id,
        model=message.model,
        model_version=message.model_version,
        engine_id=message.engine_id,
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        seed=message.seed,
        created_ms=message.create_time.ToMilliseconds(),
        assignment=Assignment(
            message.arm, message.rollout_id, message.experiment_id, message.subject_hash
        ),
        ensemble=message.ensemble,
        steps=tuple(map(_step_of, message.steps)),
        adapter=_adapter_of(message.adapter) if message.HasField("adapter") else None,
    )


def _adapter_of(message: generation_pb2.AppliedAdapter) -> Adapter:
    return Adapter(message.name, message.digest, message.directory)


def finished_of(message: generation_pb2.Finished) -> Finished:
    usage, timings = message.usage, message.timings
    return Finished(
        reason=_REASONS_BACK.get(message.finish_reason, FinishReason.STOP),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        stop_text=message.stop_text if message.HasField("stop_text") else None,
        stop_token_id=message.stop_token_id if message.HasField("stop_token_id") else None,
        timings=Timings(timings.queue_ms, timings.prefill_ms, timings.decode_ms),
        resumptions=timings.resumptions,
        index=message.index,
        reasoning_tokens=usage.reasoning_tokens,
        total=_total_of(message) if message.HasField("total_usage") else None,
        cost=message.cost,
        steps=tuple(map(_step_of, message.steps)),
    )


def _total_of(message: generation_pb2.Finished) -> TotalUsage:
    total = message.total_usage
    return TotalUsage(
        total.completion_tokens,
        total.reasoning_tokens,
        total.cached_tokens,
        total.prompt_tokens if message.steps else None,
        message.device_ms,
    )


def _step_of(message: generation_pb2.EnsembleStep) -> Step:
    usage = message.usage
    return Step(
        message.model,
        message.model_version,
        message.chosen,
        message.reason,
        message.score if message.HasField("score") else None,
        usage.prompt_tokens,
        usage.cached_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
        message.device_ms,
        message.cost,
    )


def output_format_response(chosen: OutputFormat) -> generation_pb2.GetOutputFormatResponse:
    return generation_pb2.GetOutputFormatResponse(
        tool_format=chosen.tools.name,
        tool_reason=chosen.tools.reason,
        reasoning_format=chosen.reasoning.name,
        reasoning_reason=chosen.reasoning.reason,
        reasoning_switch=chosen.switch is not None,
        reasoning_effort=bool(chosen.effort),
    )
