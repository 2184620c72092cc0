"""One running generation: engine outputs in, events out, from one engine to the next."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence

from mlxmesh.engine.v1.engine_pb2 import SequenceOutput
from mlxmesh.telemetry.v1.events_pb2 import GenerationResumed
from mlxmesh_generation import convert
from mlxmesh_generation.placement.sequence import EngineSequence, Placer
from mlxmesh_generation.request import (
    Delta,
    Finished,
    FinishReason,
    PrefillProgress,
    Resumed,
    Started,
    Timings,
)
from mlxmesh_generation.streams.plan import Losses, Plan
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.telemetry import WatchedGeneration
from mlxmesh_generation.text.detokenize import Detokenizer
from mlxmesh_generation.text.output import Output
from mlxmesh_shared.errors import (
    Cancelled,
    ContextTooLong,
    DeadlineExceeded,
    EngineLost,
    MeshError,
    NoReplica,
    QueueFull,
)
from mlxmesh_shared.events import Publish, discard_event

# So that what an engine made before its deadline still reaches the caller before the caller's own.
DEADLINE_MARGIN_S = 0.05
ENGINE_WAIT_S = 30.0
# Between two tries to get a place at engines that have none just now.
RETRY_PAUSE_S = 0.1


class Generation:
    """Made for one plan; started by start(), its events read by one reader, given up by close().

    It holds the prompt and every token so far, and so goes on at another engine when its own is
    lost. With `resumed` it goes on with what began in another process.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        watched: WatchedGeneration,
        engines: Placer,
        detokenizer: Detokenizer,
        resumed: Resumed | None = None,
        engine_wait_s: float = ENGINE_WAIT_S,
        on_ended: Callable[[], None] = lambda: None,
        on_waiting: Callable[[int], None] = lambda _: None,
        publish: Publish = discard_event,
    ) -> None:
        self.events = EventBuffer(on_waiting)
        self._plan = plan
        self._watched = watched
        self._engines = engines
        self._engine_wait_s = engine_wait_s
        self._on_ended = on_ended
        self._publish = publish
        self._lost_engine = ""
        self._output = Output(detokenizer, plan.request.stop)
        self._losses = Losses()
        self._sequence: EngineSequence | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._refused_by: list[str] = []
        self._waiting_since_s = self._placed_s = plan.received_s
        self._max_tokens = plan.max_tokens
        self._cached_tokens = 0
        # Whether the reader has Started, and whether the engine of now has taken the sequence.
        self._begun = resumed is not None
        self._taken = False
        self._cancelled = False
        if resumed is not None:
            self._losses = Losses(resumed.resumptions + 1, len(resumed.token_ids))
            self._put(self._output.replay(resumed))

    def start(self) -> None:
        """Raises: NoReplica, QueueFull, DeadlineExceeded."""
        if self._cancelled:
            self._finish(FinishReason.CANCELLED, Timings())
        elif self._begun:
            self._go_on_elsewhere()
        else:
            self._place(avoid=self._refused_by)

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED; before start(), no engine is asked."""
        self._cancelled = True
        if self._recovery is not None:
            self._stop_recovery()
            self._put(self._output.flush())
            self._finish(FinishReason.CANCELLED, Timings())
        elif self._sequence is not None:
            self._sequence.cancel()

    def fail(self, error: MeshError) -> None:
        """Ends it with an error, after the text so far."""
        if self.events.ended:
            return
        self._put(self._output.flush())
        self.events.fail(error)
        self._failed(error)

    def give_up(self, error: MeshError) -> None:
        """Ends it with an error, without the text that its reader has not read."""
        had_ended = self.events.ended
        self.events.drop(error)
        if not had_ended:
            self._failed(error)

    def _failed(self, error: MeshError) -> None:
        self._watched.failed(error, self._output.token_ids, self._losses.resumptions)
        self.close()
        self._on_ended()

    def close(self) -> None:
        """Frees its place on the engine at once; nothing happens when it has ended."""
        self._stop_recovery()
        if self._sequence is not None:
            self._sequence.drop()

    # The engine's side: SequenceSink.

    def on_output(self, output: SequenceOutput) -> None:
        if self.events.ended:
            return
        if output.HasField("accepted"):
            self._on_accepted(output.accepted.cached_tokens)
        elif output.HasField("cached_tokens"):
            self._cached_tokens = output.cached_tokens
        if self._output.stop_text is None:
            self._on_progress(output)
        if output.HasField("failure"):
            self._on_failure(convert.engine_failure(output.failure, self._plan.request))
        elif output.finish_reason:
            self._on_finished(output)

    def on_lost(self, error: MeshError) -> None:
        if not self.events.ended:
            self._on_failure(error)

    def _on_accepted(self, cached_tokens: int) -> None:
        self._taken = True
        self._cached_tokens = cached_tokens
        if self._begun:
            self._tell_resumed()
            return
        self._begun = True
        version, sequence = self._plan.version, self._sequence
        self.events.put(
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

    def _tell_resumed(self) -> None:
        version, request_id = self._plan.version, self._plan.request.request_id
        self._publish(
            GenerationResumed(
                request_id=request_id,
                model=version.name,
                model_version=version.version,
                from_engine=self._lost_engine,
                to_engine=self._sequence.engine_id if self._sequence else "",
                completion_tokens=len(self._output.token_ids),
                resumptions=self._losses.resumptions,
            ),
            request_id,
        )

    def _on_progress(self, output: SequenceOutput) -> None:
        if output.token_ids or output.finish_reason:
            stopped = convert.stopped(output)
            self._put(self._output.confirm(ends=stopped and not output.token_ids))
            self._on_tokens(output.token_ids, stopped=stopped)
        elif output.prefilled_tokens and not self._losses.resumptions:
            self._on_prefill(output.prefilled_tokens)

    def _on_prefill(self, processed_tokens: int) -> None:
        total_tokens = len(self._plan.prompt_token_ids)
        # The last slice needs no message: the first token tells that it was read.
        if processed_tokens < total_tokens:
            self.events.put(PrefillProgress(processed_tokens, total_tokens))

    def _on_tokens(self, token_ids: Sequence[int], *, stopped: bool) -> None:
        if token_ids and self._output.stop_text is None:
            if not self._output.token_ids:
                self._watched.first_token()
            self._put(self._output.feed(token_ids, stopped=stopped))
        if self._output.stop_text is not None:
            self.cancel()
        elif self.events.full:
            self.fail(Cancelled("the reader fell too far behind; read faster or ask for less"))

    def _put(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if delta.text or delta.token_ids:
                self.events.put(delta)

    def _on_finished(self, output: SequenceOutput) -> None:
        if self.events.ended:
            return
        self._put(self._output.flush())
        self._finish(convert.finish_reason(output), convert.timings(output.timings))

    def _finish(self, reason: FinishReason, timings: Timings) -> None:
        token_ids, stop_text = self._output.token_ids, self._output.stop_text
        if stop_text is not None:
            reason = FinishReason.STOP
        by_token = reason is FinishReason.STOP and stop_text is None
        waited_ms = (self._placed_s - self._waiting_since_s) * 1000
        prompt_tokens = len(self._plan.prompt_token_ids)
        finished = Finished(
            reason=reason,
            prompt_tokens=prompt_tokens,
            # One that went on had the tokens so far looked up along with its prompt.
            cached_tokens=min(self._cached_tokens, prompt_tokens),
            completion_tokens=len(token_ids),
            stop_text=stop_text,
            stop_token_id=token_ids[-1] if by_token and token_ids else None,
            timings=Timings(timings.queue_ms + waited_ms, timings.prefill_ms, timings.decode_ms),
            resumptions=self._losses.resumptions,
        )
        self._watched.finished(finished, token_ids)
        self.events.put(finished)
        self._on_ended()

    # Going elsewhere.

    def _on_failure(self, error: MeshError) -> None:
        self._watched.engine_failed(error)
        if self._output.stop_text is not None:
            # The answer was complete; only the engine's last word on it is missing.
            self._finish(FinishReason.STOP, Timings())
        elif self._cancelled:
            self._finish(FinishReason.CANCELLED, Timings())
        elif not self._go_on(error):
            self.fail(error)

    def _go_on(self, error: MeshError) -> bool:
        if isinstance(error, ContextTooLong) and not self._taken:
            return self._start_with_less()
        if not error.retryable:
            return False
        if not self._begun:
            return self._start_elsewhere()
        refused = not self._taken and not isinstance(error, EngineLost)
        if not refused and not self._losses.may_go_on(len(self._output.token_ids)):
            return False
        if not refused:
            self._watched.resumed()
        self._go_on_elsewhere(pause_s=RETRY_PAUSE_S if refused else 0.0)
        return True

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

    def _go_on_elsewhere(self, pause_s: float = 0.0) -> None:
        if not pause_s:
            self._waiting_since_s = time.monotonic()
            self._lost_engine = self._sequence.engine_id if self._sequence else ""
        self._taken = False
        self._recovery = asyncio.create_task(self._recover(pause_s))

    async def _recover(self, pause_s: float) -> None:
        """Places it again, waiting for an engine while there is none."""
        avoid = () if self._sequence is None else (self._sequence.engine_id,)
        try:
            async with asyncio.timeout(self._until_s() - time.monotonic()):
                await asyncio.sleep(pause_s)
                while not self._placed(avoid):
                    await self._engines.wait_for_replica(self._plan.version)
                    await asyncio.sleep(RETRY_PAUSE_S)
                    avoid = ()
        except TimeoutError:
            self._recovery = None
            self.fail(EngineLost("the engine was lost and no other came in time; try again"))
        except MeshError as error:
            self._recovery = None
            self.fail(error)
        self._recovery = None

    def _until_s(self) -> float:
        if self._plan.deadline_s is None:
            return self._waiting_since_s + self._engine_wait_s
        return self._plan.deadline_s - DEADLINE_MARGIN_S

    def _placed(self, avoid: Sequence[str]) -> bool:
        try:
            self._place(avoid)
        except (NoReplica, QueueFull):
            return False
        return True

    def _place(self, avoid: Sequence[str]) -> None:
        self._placed_s = time.monotonic()
        submit = convert.to_submit(
            self._plan.request,
            prompt_token_ids=self._plan.prompt_token_ids,
            max_tokens=self._max_tokens,
            seed=self._plan.seed,
            timeout_ms=self._timeout_ms(),
        )
        submit.generated_token_ids.extend(self._output.token_ids)
        submit.isolated = self._losses.isolated
        submit.traceparent = self._watched.try_engine()
        self._sequence = self._engines.place(self._plan.version, submit, self, avoid=avoid)
        self._watched.placed(self._sequence.engine_id)

    def _stop_recovery(self) -> None:
        recovery, self._recovery = self._recovery, None
        if recovery is not None:
            recovery.cancel()

    def _timeout_ms(self) -> int | None:
        if self._plan.deadline_s is None:
            return None
        left_s = self._plan.deadline_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline passed before an engine was asked")
        return max(1, round((left_s - min(DEADLINE_MARGIN_S, left_s / 10)) * 1000))
