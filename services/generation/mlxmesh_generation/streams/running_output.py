"""One output of a generation: engine outputs in, events out, across the engines that run it."""

from array import array
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from mlxmesh_generation.domain.request import (
    Delta,
    Finished,
    FinishReason,
    PrefillProgress,
    ReceivedOutput,
    Timings,
)
from mlxmesh_generation.placement.sequence import (
    EngineLogprobs,
    EngineOutput,
    EngineSequence,
)
from mlxmesh_generation.streams import events
from mlxmesh_generation.streams.logprobs import TokenBytes, token_logprobs
from mlxmesh_generation.streams.phase import Change, Phase, next_phase
from mlxmesh_generation.streams.plan import Plan, name_callers_field
from mlxmesh_generation.streams.recovery import (
    RETRY_PAUSE_S,
    Action,
    Losses,
    Recovery,
    action_after,
)
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.submission import Submission
from mlxmesh_generation.streams.telemetry import OutputObserver
from mlxmesh_generation.text.output import Output
from mlxmesh_shared.errors import Cancelled, MeshError, ServiceUnavailable


class OutputGroup(Protocol):
    """What the outputs of one generation have in common."""

    @property
    def events(self) -> EventBuffer: ...
    @property
    def needs_prompt_logprobs(self) -> bool: ...
    @property
    def first_sequence(self) -> EngineSequence | None:
        """That of output 0, whose prefill the others share."""
        ...

    def on_accepted(self, output: "RunningOutput") -> None: ...
    def on_prompt_logprobs(self, logprobs: EngineLogprobs) -> None: ...
    def on_first_tokens(self, index: int) -> None: ...
    def on_finished(self, output: "RunningOutput", finished: Finished) -> None: ...
    def fail(self, error: MeshError) -> None:
        """Ends all outputs with an error, after their text so far."""
        ...


class RunningOutput:
    """Satisfies SequenceSink. It keeps every token, so it survives its engine."""

    def __init__(
        self,
        plan: Plan,
        index: int,
        *,
        group: OutputGroup,
        output: Output,
        submission: Submission,
        recovery: Recovery,
        observer: OutputObserver,
        token_bytes: TokenBytes,
    ) -> None:
        self.index = index
        self.output = output
        self.cached_tokens = 0
        self.losses = Losses()
        self.submission = submission
        self.recovery = recovery
        self._plan = plan
        self._phase = Phase.CREATED
        self._group = group
        self._events = group.events
        self._observer = observer
        self._token_bytes = token_bytes
        self._refused_by: list[str] = []
        self._resumed = False

    @property
    def ended(self) -> bool:
        return self._phase.ended

    def resume(self, received: ReceivedOutput, resumptions: int) -> None:
        """Continues an output of another process; call it before start()."""
        self._resumed = True
        self._put(self.output.replay(received))
        self.losses = Losses(resumptions + 1, len(self.output.token_ids))

    def start(self) -> None:
        """Raises: NoReplica, QueueFull, DeadlineExceeded; not if it continues or may wait."""
        if self._phase is Phase.STOPPING:
            self._finish(FinishReason.CANCELLED, Timings())
        elif self._resumed:
            self._resume()
        else:
            self._submit(self._refused_by)

    def start_waiting(self) -> None:
        """As start(), but waits for an engine that accepts it."""
        try:
            self.start()
        except MeshError as error:
            if not error.retryable:
                raise
            self._resume(retry=True)

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED; before start(), it reaches no engine."""
        if self._phase.ended:
            return
        was_waiting = self._phase is Phase.WAITING
        self._change(Change.STOP)
        if was_waiting:
            self.recovery.stop()
            if self.flush():
                self._finish(FinishReason.CANCELLED, Timings())
        else:
            self.submission.cancel()

    def flush(self) -> bool:
        """Emits what is held back; False when it has ended, which this output may cause."""
        if not self._phase.ended:
            self._put(self.output.flush())
        return not self._phase.ended

    def drop(self) -> None:
        """Ends it without an event, and releases its engine at once."""
        if not self._phase.ended:
            self._change(Change.FAIL)
            self._observer.ended()
        self.close()

    def close(self) -> None:
        """Releases its engine at once; a no-op once it has ended."""
        self.recovery.stop()
        self.submission.drop()

    def on_output(self, output: EngineOutput) -> None:
        if self._phase.ended:
            return
        if output.cached_tokens is not None:
            self.cached_tokens = output.cached_tokens
        if output.prompt_tokens is not None:
            self._plan.expanded.tokens = output.prompt_tokens
        if output.accepted:
            self._change(Change.ACCEPT)
            self._group.on_accepted(self)
        if output.prompt_logprobs is not None:
            self._group.on_prompt_logprobs(output.prompt_logprobs)
        if self.output.stop_text is None:
            self._on_progress(output)
        if output.failure is not None or output.finish_reason is not None:
            self._on_end(output)

    def on_lost(self, error: MeshError) -> None:
        if not self._phase.ended:
            self._on_failure(error)

    def _on_progress(self, output: EngineOutput) -> None:
        if output.token_ids or output.finish_reason is not None:
            stopped = output.stopped
            self._put(self.output.confirm(ends=stopped and not output.token_ids))
            self._on_tokens(output.token_ids, output.logprobs, stopped=stopped)
        elif output.prefilled_tokens and not self.losses.resumptions and not self.index:
            self._on_prefill(output.prefilled_tokens)

    def _on_prefill(self, processed_tokens: int) -> None:
        total_tokens = self._plan.prompt_tokens
        # The first token implies that the prefill is complete.
        if processed_tokens < total_tokens:
            self._events.put(PrefillProgress(processed_tokens, total_tokens))

    def _on_tokens(
        self, token_ids: Sequence[int], logprobs: EngineLogprobs | None, *, stopped: bool
    ) -> None:
        if token_ids and self.output.stop_text is None:
            if not self.output.token_ids:
                self._group.on_first_tokens(self.index)
            scored = (
                () if logprobs is None else token_logprobs(token_ids, logprobs, self._token_bytes)
            )
            self._put(self.output.feed(token_ids, stopped=stopped, logprobs=scored))
        if self.output.stop_text is not None:
            self.cancel()
        elif self._events.full:
            error = Cancelled("the reader fell too far behind; read faster or ask for less")
            self._group.fail(error)

    def _on_end(self, output: EngineOutput) -> None:
        if self._phase.ended:
            return
        if output.failure is not None:
            self._on_failure(name_callers_field(output.failure, self._plan))
        elif output.finish_reason is not None and self.flush():
            self._finish(output.finish_reason, output.timings or Timings())

    def _on_failure(self, error: MeshError) -> None:
        self._observer.engine_failed(error)
        if self._phase is Phase.STOPPING or self.output.stop_text is not None:
            # The output is complete, or no longer wanted; only the engine's confirmation is lost.
            if self.flush():
                self._finish(FinishReason.CANCELLED, Timings())
        elif not self._continue_after(error):
            self._group.fail(error)

    def _continue_after(self, error: MeshError) -> bool:
        action = action_after(error, self._phase, may_wait=self.index > 0)
        if action is Action.SHORTEN:
            # Beside images an engine shortens it itself.
            shorter = not self._plan.images and self.submission.halve_max_tokens()
            return shorter and self._restart()
        if action is Action.TRY_ANOTHER:
            return self._try_another() or self._wait_for_load(error)
        if action is Action.RETRY:
            self._resume(retry=True)
            return True
        if action is Action.FAIL or not self.losses.may_resume(len(self.output.token_ids)):
            return False
        self._observer.resumed()
        self._resume()
        return True

    def _try_another(self) -> bool:
        if self._refused_by:
            return False
        self._refused_by.append(self.submission.engine_id)
        return self._restart()

    def _wait_for_load(self, error: MeshError) -> bool:
        """After its last engine left, as when its model gives way; False if it may not wait."""
        if self._plan.load_timeout_s is None or not isinstance(error, ServiceUnavailable):
            return False
        self._resume(retry=True)
        return True

    def _restart(self) -> bool:
        """Submits it again; False when that is impossible."""
        if self._phase is Phase.RESUBMITTED or self.index:
            self._resume()
            return True
        try:
            self._submit(self._refused_by)
        except MeshError:
            return False
        return True

    def _resume(self, *, retry: bool = False) -> None:
        self._change(Change.WAIT)
        engine_id = self.submission.engine_id
        if not retry:
            self.recovery.note_loss(engine_id)
        pause_s = RETRY_PAUSE_S if retry else 0.0
        self.recovery.start(self._submit, self._group.fail, avoid=engine_id, pause_s=pause_s)

    def _submit(self, avoid: Collection[str]) -> None:
        group, is_first = self._group, not self.index
        self.submission.submit(
            self,
            array("I", self.output.token_ids),
            isolated=self.losses.isolated,
            avoid=avoid,
            prompt_logprobs=is_first and group.needs_prompt_logprobs,
            shares_prefill_of=None if is_first else group.first_sequence,
        )
        self._change(Change.SUBMIT)

    def _finish(self, reason: FinishReason, timings: Timings) -> None:
        self._change(Change.FINISH)
        self._observer.ended()
        finished = events.finished(
            self._plan,
            self.index,
            reason,
            output=self.output,
            cached_tokens=self.cached_tokens,
            timings=timings,
            waited_ms=(self.submission.submitted_s - self.recovery.waiting_since_s) * 1000,
            resumptions=self.losses.resumptions,
        )
        self._group.on_finished(self, finished)

    def _change(self, change: Change) -> None:
        self._phase = next_phase(self._phase, change)

    def _put(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            if delta.text or delta.token_ids or delta.reasoning or delta.calls:
                self._events.put(delta)
