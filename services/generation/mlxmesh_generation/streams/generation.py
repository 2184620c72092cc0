"""One generation: engine outputs in, events out, across the engines that run it."""

import time
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence

from mlxmesh_generation.domain.request import (
    Delta,
    FinishReason,
    PrefillProgress,
    Resumed,
    Timings,
)
from mlxmesh_generation.placement.sequence import EngineOutput, Placer
from mlxmesh_generation.streams import convert, events
from mlxmesh_generation.streams.phase import Change, Phase, next_phase
from mlxmesh_generation.streams.plan import Plan, name_callers_field
from mlxmesh_generation.streams.recovery import (
    ENGINE_WAIT_S,
    RETRY_PAUSE_S,
    Action,
    Losses,
    Recovery,
    action_after,
)
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.submission import Submission
from mlxmesh_generation.streams.telemetry import GenerationObserver
from mlxmesh_generation.text.detokenize import Detokenizer
from mlxmesh_generation.text.output import Output
from mlxmesh_shared.errors import Cancelled, MeshError
from mlxmesh_shared.events import Publish, discard_event


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Generation:
    """Satisfies SequenceSink. It keeps the prompt and every token, so it survives its engine.

    With `resumed` it continues a generation of another process.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        observer: GenerationObserver,
        engines: Placer,
        detokenizer: Detokenizer,
        resumed: Resumed | None = None,
        engine_wait_s: float = ENGINE_WAIT_S,
        on_ended: Callable[[], None] = lambda: None,
        on_backlog: Callable[[int], None] = lambda _: None,
        publish: Publish = discard_event,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self.events = EventBuffer(on_backlog)
        self._clock_ms = clock_ms
        self._plan = plan
        self._phase = Phase.CREATED
        self._observer = observer
        self._on_ended = on_ended
        self._publish = publish
        self._output = Output(detokenizer, plan.request.stop)
        self._submission = Submission(plan, engines, observer)
        self._recovery = Recovery(plan, engines, engine_wait_s)
        self._losses = Losses()
        self._refused_by: list[str] = []
        self._cached_tokens = 0
        self._resumed = resumed is not None
        if resumed is not None:
            self._put(self._output.replay(resumed))
            self._losses = Losses(resumed.resumptions + 1, len(self._output.token_ids))

    def start(self) -> None:
        """Raises: NoReplica, QueueFull, DeadlineExceeded."""
        if self._phase is Phase.STOPPING:
            self._finish(FinishReason.CANCELLED, Timings())
        elif self._resumed:
            self._resume()
        else:
            self._submit(self._refused_by)

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED; before start(), it reaches no engine."""
        if self._phase.ended:
            return
        was_waiting = self._phase is Phase.WAITING
        self._change(Change.STOP)
        if was_waiting:
            self._recovery.stop()
            if self._flush():
                self._finish(FinishReason.CANCELLED, Timings())
        else:
            self._submission.cancel()

    def fail(self, error: MeshError) -> None:
        """Ends it with an error, after the text so far."""
        if self._flush():
            self.events.fail(error)
            self._failed(error)

    def abort(self, error: MeshError) -> None:
        """Ends it with an error and discards the output that its reader has not read."""
        self.events.drop(error)
        if not self._phase.ended:
            self._failed(error)

    def close(self) -> None:
        """Releases its engine at once; a no-op once it has ended."""
        self._recovery.stop()
        self._submission.drop()

    def on_output(self, output: EngineOutput) -> None:
        if self._phase.ended:
            return
        if output.cached_tokens is not None:
            self._cached_tokens = output.cached_tokens
        if output.accepted:
            self._on_accepted()
        if self._output.stop_text is None:
            self._on_progress(output)
        if output.failure is not None or output.finish_reason is not None:
            self._on_end(output)

    def on_lost(self, error: MeshError) -> None:
        if not self._phase.ended:
            self._on_failure(error)

    def _on_accepted(self) -> None:
        self._change(Change.ACCEPT)
        if self._losses.resumptions:
            self._publish_resumed()
        else:
            started = events.started(
                self._plan,
                engine_id=self._submission.engine_id,
                cached_tokens=self._cached_tokens,
                created_ms=self._clock_ms(),
            )
            self.events.put(started)

    def _on_progress(self, output: EngineOutput) -> None:
        if output.token_ids or output.finish_reason is not None:
            stopped = output.stopped
            self._put(self._output.confirm(ends=stopped and not output.token_ids))
            self._on_tokens(output.token_ids, stopped=stopped)
        elif output.prefilled_tokens and not self._losses.resumptions:
            self._on_prefill(output.prefilled_tokens)

    def _on_prefill(self, processed_tokens: int) -> None:
        total_tokens = len(self._plan.prompt_token_ids)
        # The first token implies that the prefill is complete.
        if processed_tokens < total_tokens:
            self.events.put(PrefillProgress(processed_tokens, total_tokens))

    def _on_tokens(self, token_ids: Sequence[int], *, stopped: bool) -> None:
        if token_ids and self._output.stop_text is None:
            if not self._output.token_ids:
                self._observer.first_token()
            self._put(self._output.feed(token_ids, stopped=stopped))
        if self._output.stop_text is not None:
            self.cancel()
        elif self.events.full:
            self.fail(Cancelled("the reader fell too far behind; read faster or ask for less"))

    def _on_end(self, output: EngineOutput) -> None:
        if self._phase.ended:
            return
        if output.failure is not None:
            self._on_failure(name_callers_field(output.failure, self._plan.request))
        elif output.finish_reason is not None and self._flush():
            self._finish(output.finish_reason, output.timings or Timings())

    def _on_failure(self, error: MeshError) -> None:
        self._observer.engine_failed(error)
        if self._phase is Phase.STOPPING or self._output.stop_text is not None:
            # The output is complete, or no longer wanted; only the engine's confirmation is lost.
            self._finish(FinishReason.CANCELLED, Timings())
        elif not self._continue_after(error):
            self.fail(error)

    def _continue_after(self, error: MeshError) -> bool:
        action = action_after(error, self._phase)
        if action is Action.SHORTEN:
            return self._submission.halve_max_tokens() and self._restart()
        if action is Action.TRY_ANOTHER:
            return self._try_another()
        if action is Action.RETRY:
            self._resume(retry=True)
            return True
        if action is Action.FAIL or not self._losses.may_resume(len(self._output.token_ids)):
            return False
        self._observer.resumed()
        self._resume()
        return True

    def _try_another(self) -> bool:
        if self._refused_by:
            return False
        self._refused_by.append(self._submission.engine_id)
        return self._restart()

    def _restart(self) -> bool:
        """Submits it again; False when that is impossible."""
        if self._phase is Phase.RESUBMITTED:
            self._resume()
            return True
        try:
            self._submit(self._refused_by)
        except MeshError:
            return False
        return True

    def _resume(self, *, retry: bool = False) -> None:
        self._change(Change.WAIT)
        engine_id = self._submission.engine_id
        if not retry:
            self._recovery.note_loss(engine_id)
        pause_s = RETRY_PAUSE_S if retry else 0.0
        self._recovery.start(self._submit, self.fail, avoid=engine_id, pause_s=pause_s)

    def _submit(self, avoid: Collection[str]) -> None:
        self._submission.submit(
            self,
            array("I", self._output.token_ids),
            isolated=self._losses.isolated,
            avoid=avoid,
        )
        self._change(Change.SUBMIT)

    def _failed(self, error: MeshError) -> None:
        self._change(Change.FAIL)
        self._observer.failed(error, self._output.token_ids, self._losses.resumptions)
        self.close()
        self._on_ended()

    def _finish(self, reason: FinishReason, timings: Timings) -> None:
        self._change(Change.FINISH)
        token_ids = self._output.token_ids
        finished = events.finished(
            self._plan,
            reason,
            token_ids=token_ids,
            stop_text=self._output.stop_text,
            cached_tokens=self._cached_tokens,
            timings=timings,
            waited_ms=(self._submission.submitted_s - self._recovery.waiting_since_s) * 1000,
            resumptions=self._losses.resumptions,
        )
        self._observer.finished(finished, token_ids)
        self.events.put(finished)
        self._on_ended()

    def _change(self, change: Change) -> None:
        self._phase = next_phase(self._phase, change)

    def _flush(self) -> bool:
        """Emits the text held back; False when it has ended, which this output may cause."""
        if not self._phase.ended:
            self._put(self._output.flush())
        return not self._phase.ended

    def _put(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if delta.text or delta.token_ids:
                self.events.put(delta)

    def _publish_resumed(self) -> None:
        event = convert.generation_resumed(
            self._plan,
            from_engine=self._recovery.lost_engine,
            to_engine=self._submission.engine_id,
            completion_tokens=len(self._output.token_ids),
            resumptions=self._losses.resumptions,
        )
        self._publish(event, self._plan.request.request_id)
