"""One running generation: engine outputs in, events out."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from mlxmesh.engine.v1.engine_pb2 import SequenceOutput
from mlxmesh_generation import convert
from mlxmesh_generation.catalogue import ModelVersion
from mlxmesh_generation.detokenize import Detokenizer
from mlxmesh_generation.request import (
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerationRequest,
    PrefillProgress,
    Started,
    Timings,
)
from mlxmesh_generation.sequence import EngineSequence, Placer
from mlxmesh_generation.stops import StopScanner
from mlxmesh_generation.stream import EventBuffer
from mlxmesh_shared.errors import Cancelled, ContextTooLong, DeadlineExceeded, MeshError

# So that what an engine made before its deadline still reaches the caller before the caller's own.
DEADLINE_MARGIN_S = 0.05


@dataclass(frozen=True)
class Plan:
    """A request with everything fixed that its output depends on."""

    request: GenerationRequest
    version: ModelVersion
    prompt_token_ids: Sequence[int]
    max_tokens: int
    seed: int
    received_s: float
    """When the request came, in time.monotonic()."""
    deadline_s: float | None
    """When it must have ended, likewise."""


class Generation:
    """Made for one plan; placed once by start(), read by take(), and always given up by close().

    It holds the prompt and every token so far: all that another engine would need to go on.
    """

    def __init__(self, plan: Plan, *, engines: Placer, detokenizer: Detokenizer) -> None:
        self._plan = plan
        self._engines = engines
        self._detokenizer = detokenizer
        self._stops = StopScanner(plan.request.stop) if plan.request.stop else None
        self._events = EventBuffer()
        self._tokens: list[int] = []
        self._sequence: EngineSequence | None = None
        self._refused_by: list[str] = []
        self._placed_s = plan.received_s
        self._max_tokens = plan.max_tokens
        self._cached_tokens = 0
        self._accepted = False
        self._cancelled = False
        self._stop_text: str | None = None

    def start(self) -> None:
        """Raises: NoReplica, QueueFull, DeadlineExceeded."""
        self._placed_s = time.monotonic()
        if self._cancelled:
            self._finish(FinishReason.CANCELLED, Timings())
            return
        submit = convert.to_submit(
            self._plan.request,
            prompt_token_ids=self._plan.prompt_token_ids,
            max_tokens=self._max_tokens,
            seed=self._plan.seed,
            timeout_ms=self._timeout_ms(),
        )
        self._sequence = self._engines.place(
            self._plan.version, submit, self, avoid=self._refused_by
        )

    async def events(self) -> AsyncIterator[Event]:
        """Every event, up to Finished. Raises: what ended the generation instead."""
        while True:
            event = await self._events.take()
            yield event
            if isinstance(event, Finished):
                return

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED; before start(), no engine is asked."""
        self._cancelled = True
        if self._sequence is not None:
            self._sequence.cancel()

    def fail(self, error: MeshError) -> None:
        """Ends it with an error, after the text so far."""
        if self._events.ended:
            return
        self._flush()
        self._events.fail(error)
        self.close()

    def close(self) -> None:
        """Frees its place on the engine at once; nothing happens when it has ended."""
        if self._sequence is not None:
            self._sequence.drop()

    # The engine's side: SequenceSink.

    def on_output(self, output: SequenceOutput) -> None:
        if self._events.ended:
            return
        if output.HasField("accepted"):
            self._on_accepted(output.accepted.cached_tokens)
        elif output.HasField("cached_tokens"):
            self._cached_tokens = output.cached_tokens
        if self._stop_text is None:
            self._on_progress(output)
        if output.HasField("failure"):
            self._on_failure(convert.engine_failure(output.failure, self._plan.request))
        elif output.finish_reason:
            self._on_finished(output)

    def on_lost(self, error: MeshError) -> None:
        self._on_failure(error)

    def _on_accepted(self, cached_tokens: int) -> None:
        self._accepted = True
        self._cached_tokens = cached_tokens
        version, sequence = self._plan.version, self._sequence
        self._events.put(
            Started(
                request_id=self._plan.request.request_id,
                model=version.name,
                model_version=version.version,
                engine_id=sequence.engine_id if sequence else "",
                prompt_tokens=len(self._plan.prompt_token_ids),
                cached_tokens=cached_tokens,
                seed=self._plan.seed,
            )
        )

    def _on_progress(self, output: SequenceOutput) -> None:
        if output.token_ids:
            self._on_tokens(output.token_ids, stopped=convert.stopped(output))
        elif output.prefilled_tokens:
            self._on_prefill(output.prefilled_tokens)

    def _on_prefill(self, processed_tokens: int) -> None:
        total_tokens = len(self._plan.prompt_token_ids)
        # The last slice needs no message: the first token tells that it was read.
        if processed_tokens < total_tokens:
            self._events.put(PrefillProgress(processed_tokens, total_tokens))

    def _on_tokens(self, token_ids: Sequence[int], *, stopped: bool) -> None:
        """With `stopped`, the last of them is an end token, which has no text."""
        with_text = token_ids[:-1] if stopped else token_ids
        if self._stops is None:
            self._put(self._detokenizer.feed(with_text), token_ids)
        else:
            self._scan(self._stops, token_ids, len(with_text))
        if self._events.full:
            self.fail(Cancelled("the reader fell too far behind; read faster or ask for less"))

    def _scan(self, stops: StopScanner, token_ids: Sequence[int], with_text: int) -> None:
        """One token at a time, to know which of them completed a stop text."""
        for token_id in token_ids[:with_text]:
            text, self._stop_text = stops.feed(self._detokenizer.feed((token_id,)))
            self._put(text, (token_id,))
            if self._stop_text is not None:
                self.cancel()
                return
        self._put("", token_ids[with_text:])

    def _put(self, text: str, token_ids: Sequence[int]) -> None:
        if text or token_ids:
            self._tokens += token_ids
            self._events.put(Delta(text, tuple(token_ids)))

    def _flush(self) -> None:
        """Puts out the text held back; what an unfinished character ends in may be a stop text."""
        if self._stop_text is not None:
            return
        text = self._detokenizer.flush()
        if self._stops is not None:
            text, self._stop_text = self._stops.feed(text)
            text += "" if self._stop_text is not None else self._stops.flush()
        self._put(text, ())

    def _on_finished(self, output: SequenceOutput) -> None:
        self._flush()
        self._finish(convert.finish_reason(output), convert.timings(output.timings))

    def _finish(self, reason: FinishReason, timings: Timings) -> None:
        stop_text = self._stop_text
        if stop_text is not None:
            reason = FinishReason.STOP
        by_token = reason is FinishReason.STOP and stop_text is None
        waited_ms = (self._placed_s - self._plan.received_s) * 1000
        self._events.put(
            Finished(
                reason=reason,
                prompt_tokens=len(self._plan.prompt_token_ids),
                cached_tokens=self._cached_tokens,
                completion_tokens=len(self._tokens),
                stop_text=stop_text,
                stop_token_id=self._tokens[-1] if by_token and self._tokens else None,
                timings=Timings(
                    timings.queue_ms + waited_ms, timings.prefill_ms, timings.decode_ms
                ),
            )
        )

    def _on_failure(self, error: MeshError) -> None:
        if self._stop_text is not None:
            # The answer was complete; only the engine's last word on it is missing.
            self._finish(FinishReason.STOP, Timings())
        elif self._accepted or not self._start_again(error):
            self.fail(error)

    def _start_again(self, error: MeshError) -> bool:
        if isinstance(error, ContextTooLong):
            return self._start_with_less()
        return error.retryable and self._start_elsewhere()

    def _start_with_less(self) -> bool:
        """Halves a default length: an engine's context may be shorter than its model's."""
        if self._plan.request.max_tokens is not None or self._max_tokens == 1:
            return False
        self._max_tokens //= 2
        return self._restarted()

    def _start_elsewhere(self) -> bool:
        """Tries one other engine, when the first would not take it."""
        if self._refused_by or self._sequence is None:
            return False
        self._refused_by.append(self._sequence.engine_id)
        return self._restarted()

    def _restarted(self) -> bool:
        try:
            self.start()
        except MeshError:
            return False
        return True

    def _timeout_ms(self) -> int | None:
        if self._plan.deadline_s is None:
            return None
        left_s = self._plan.deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before an engine was asked")
        return max(1, round((left_s - min(DEADLINE_MARGIN_S, left_s / 10)) * 1000))
