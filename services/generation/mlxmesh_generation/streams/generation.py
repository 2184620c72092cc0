"""One generation: outputs of one prompt that begin, are cancelled and fail together."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from mlxmesh_generation.domain.request import Finished, ReceivedOutput, Resumed
from mlxmesh_generation.parsers.part_reader import PartReader
from mlxmesh_generation.placement.sequence import EngineLogprobs, EngineSequence, Placer
from mlxmesh_generation.streams import convert, events
from mlxmesh_generation.streams.logprobs import PromptScores
from mlxmesh_generation.streams.plan import Plan
from mlxmesh_generation.streams.recovery import ENGINE_WAIT_S, Recovery
from mlxmesh_generation.streams.running_output import RunningOutput
from mlxmesh_generation.streams.stream import EventBuffer
from mlxmesh_generation.streams.submission import Submission
from mlxmesh_generation.streams.telemetry import GenerationObserver
from mlxmesh_generation.text.output import Output
from mlxmesh_generation.text.tokenizer import ModelTokenizer
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.events import Publish, discard_event

T = TypeVar("T")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Generation:
    """Satisfies OutputGroup. It keeps the prompt, so that its outputs survive their engines.

    With `resumed` it continues a generation of another process.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        observer: GenerationObserver,
        engines: Placer,
        tokenizer: ModelTokenizer,
        resumed: Resumed | None = None,
        engine_wait_s: float = ENGINE_WAIT_S,
        on_ended: Callable[[], None] = lambda: None,
        on_backlog: Callable[[int], None] = lambda _: None,
        publish: Publish = discard_event,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        self._events = EventBuffer(on_backlog, outputs=plan.request.n)
        self._clock_ms = clock_ms
        self._plan = plan
        self._observer = observer
        self._engines = engines
        self._engine_wait_s = engine_wait_s
        self._tokenizer = tokenizer
        self._on_ended = on_ended
        self._publish = publish
        self._failed = False
        self._has_started = resumed is not None
        self._prompt_scores = _prompt_scores(plan, tokenizer, resumed)
        # Of the outputs that have ended, by index.
        self._ends: dict[int, Finished] = {}
        self._token_ids: dict[int, Sequence[int]] = {}
        self._running: list[RunningOutput] = []
        for index in range(plan.request.n):
            self._add(index, resumed)
        self._waiting = self._running[1:]
        """Outputs to be started after the first one."""

    @property
    def events(self) -> EventBuffer:
        return self._events

    def start(self) -> None:
        """Raises: NoReplica, QueueFull, DeadlineExceeded."""
        first = self._running[0]
        first.start()
        # The engine returns the prompt's log-probabilities before the first token; nothing else
        # may come before them.
        if first.index or not self.needs_prompt_logprobs:
            self._start_others()

    def cancel(self) -> None:
        """Ends it with FinishReason.CANCELLED; before start(), it reaches no engine."""
        # The first one last: its end starts those that wait for it.
        for output in reversed(tuple(self._running)):
            output.cancel()

    def fail(self, error: MeshError) -> None:
        """Ends it with an error, after the text so far."""
        for output in tuple(self._running):
            output.flush()
        if not self._has_ended:
            self._events.fail(error)
            self._fail(error)

    def abort(self, error: MeshError) -> None:
        """Ends it with an error and discards the output that its reader has not read."""
        self._events.drop(error)
        if not self._has_ended:
            self._fail(error)

    def close(self) -> None:
        """Releases its engines at once; a no-op once it has ended."""
        for output in self._running:
            output.close()

    # Called by its outputs.

    @property
    def needs_prompt_logprobs(self) -> bool:
        return self._prompt_scores is not None and not self._prompt_scores.complete

    @property
    def first_sequence(self) -> EngineSequence | None:
        first = self._running[0]
        return None if first.index else first.submission.sequence

    def on_accepted(self, output: RunningOutput) -> None:
        if self._prompt_scores is not None and not output.index:
            self._prompt_scores.restart()
        self._put_started(output)
        if output.losses.resumptions:
            self._publish_resumed(output)

    def on_prompt_logprobs(self, logprobs: EngineLogprobs) -> None:
        if self._prompt_scores is not None:
            for event in self._prompt_scores.feed(logprobs):
                self._events.put(event)

    def on_first_tokens(self, index: int) -> None:
        self._observer.first_token()
        if self._prompt_scores is not None and not index:
            for event in self._prompt_scores.finish():
                self._events.put(event)
            self._start_others()

    def on_finished(self, output: RunningOutput, finished: Finished) -> None:
        self._put_started(output)  # it may have been cancelled before
        self._running.remove(output)
        self._note_end(finished, output.output.token_ids)
        if self._running:
            self._events.put(finished)
            self._start_others()
            return
        finished = self._ends[finished.index] = events.with_total(self._plan, finished, self._ends)
        ends, token_ids = _by_index(self._ends), _by_index(self._token_ids)
        self._observer.finished(ends, token_ids)
        self._events.put(finished)
        self._on_ended()

    # Of its own.

    @property
    def _has_ended(self) -> bool:
        return self._failed or not self._running

    def _add(self, index: int, resumed: Resumed | None) -> None:
        """Adds an output that begins, or continues or has ended in another process."""
        if resumed is None:
            self._running.append(self._new_output(index))
            return
        received = resumed.outputs.get(index, ReceivedOutput())
        if received.finished is not None:
            self._note_end(received.finished, received.token_ids)
            return
        output = self._new_output(index)
        self._running.append(output)
        output.resume(received, resumed.resumptions)

    def _new_output(self, index: int) -> RunningOutput:
        plan, observer = self._plan, self._observer.of_output()
        return RunningOutput(
            plan,
            index,
            group=self,
            output=_new_output(plan, index, self._tokenizer),
            submission=Submission(plan, self._engines, observer, index=index),
            recovery=Recovery(plan, self._engines, self._engine_wait_s),
            observer=observer,
            token_bytes=self._tokenizer.token_bytes,
        )

    def _put_started(self, output: RunningOutput) -> None:
        """Emits the first event of the stream, unless it was emitted before."""
        if self._has_started:
            return
        self._has_started = True
        started = events.started(
            self._plan,
            engine_id=output.submission.engine_id,
            cached_tokens=output.cached_tokens,
            created_ms=self._clock_ms(),
        )
        self._events.put(started)

    def _start_others(self) -> None:
        waiting, self._waiting = self._waiting, []
        for output in waiting:
            if not output.ended:
                self._start_waiting(output)

    def _start_waiting(self, output: RunningOutput) -> None:
        try:
            output.start_waiting()
        except MeshError as error:
            self.fail(error)

    def _note_end(self, finished: Finished, token_ids: Sequence[int]) -> None:
        self._ends[finished.index] = finished
        self._token_ids[finished.index] = token_ids

    def _fail(self, error: MeshError) -> None:
        self._failed = True
        for output in self._running:
            output.drop()
            self._token_ids[output.index] = output.output.token_ids
        resumptions = sum(output.losses.resumptions for output in self._running)
        self._observer.failed(error, _by_index(self._token_ids), resumptions)
        self._on_ended()

    def _publish_resumed(self, output: RunningOutput) -> None:
        event = convert.generation_resumed(
            self._plan,
            from_engine=output.recovery.lost_engine,
            to_engine=output.submission.engine_id,
            completion_tokens=len(output.output.token_ids),
            resumptions=output.losses.resumptions,
        )
        self._publish(event, self._plan.request.answer_id)


def _new_output(plan: Plan, index: int, tokenizer: ModelTokenizer) -> Output:
    request, reading = plan.request, plan.reading
    if reading is None:
        return Output(tokenizer.detokenizer(), request.stop, index=index)
    reader = PartReader(
        reading.new_parser(), request.answer_id, index, call_markers=reading.call_markers
    )
    detokenizer = tokenizer.detokenizer(reading.markers)
    return Output(detokenizer, request.stop, index=index, reader=reader)


def _prompt_scores(
    plan: Plan, tokenizer: ModelTokenizer, resumed: Resumed | None
) -> PromptScores | None:
    """None if the caller did not ask for the prompt's log-probabilities."""
    asked = plan.request.logprobs
    if asked is None or not asked.prompt:
        return None
    received = resumed.prompt_logprobs if resumed is not None else 0
    return PromptScores(plan.prompt_token_ids, tokenizer.token_bytes, received)


def _by_index(values: Mapping[int, T]) -> list[T]:
    return [values[index] for index in sorted(values)]
