"""One turn of the engine: start a decode step, collect the one before, read a slice of prompts.

Runs on the MLX thread. The next step is started before the last one's tokens are read, so that
building it costs no time; a row that turns out to have ended is dropped before the step after.
"""

import logging
import time
from collections.abc import Callable, Iterator

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import BatchCache
from mlxmesh_engine.cache.prefix_store import PrefixStore
from mlxmesh_engine.forward.decode_groups import DecodeGroups, LaunchedStep
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.forward.prefill import Prefill, groups
from mlxmesh_engine.scheduling.pace import DecodePace, StepCounts
from mlxmesh_engine.scheduling.request import (
    FinishReason,
    SequenceKey,
    SequenceRequest,
    StepOutputs,
    Update,
)
from mlxmesh_engine.scheduling.scheduler import ActiveSequence, PrefillSlice, Scheduler, read_of
from mlxmesh_shared.errors import DeadlineExceeded, EngineFailed, MeshError

_log = logging.getLogger(__name__)

# MLX keeps freed buffers for reuse; a changing batch leaves sizes that are never asked for again.
_TURNS_BETWEEN_CLEARS = 512
# So many sequences that fail by themselves, and no token in between: the engine itself is broken.
_MAX_FAILURES_IN_A_ROW = 8


class StepLoop:
    """All sequences of one engine."""

    def __init__(
        self,
        loaded: LoadedModel,
        scheduler: Scheduler,
        *,
        prefix_cache_bytes: int = 0,
        steps: StepCounts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._batching = loaded.batching
        self._prefixes = PrefixStore(loaded.model, loaded.batching, prefix_cache_bytes)
        self._decode = DecodeGroups(loaded, on_leave=self._keep_row)
        self._prefill = Prefill(loaded, self._prefixes)
        self._actives: dict[SequenceKey, ActiveSequence] = {}
        self._launched: LaunchedStep | None = None
        self._clock = clock
        # When it began, its tokens, and whether others decode beside it.
        self._prefill_began: tuple[float, int, bool] | None = None
        self._pace = DecodePace()
        self._steps = steps or StepCounts()
        self._outputs: StepOutputs = {}
        self._failures_in_a_row = 0
        self.turns = 0
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        """Of all prompts begun: how many tokens, and how many of them were not to be read."""

    @property
    def idle(self) -> bool:
        return not self._actives

    @property
    def kv_bytes(self) -> int:
        return self._decode.kv_bytes + self._prefill.kv_bytes

    @property
    def prefix_bytes(self) -> int:
        return self._prefixes.nbytes

    def submit(self, request: SequenceRequest) -> None:
        active = self._actives[request.key] = ActiveSequence(request)
        self._scheduler.add(active)
        self._look_up(active)
        cached = active.cached_prompt_tokens
        self._tell(active, Update(active.key[1], accepted=True, cached_tokens=cached))

    def cancel(self, key: SequenceKey) -> None:
        if (active := self._actives.get(key)) is not None:
            timings = active.timings(self._clock())
            reason = FinishReason.CANCELLED
            self._end(active, Update(key[1], finish_reason=reason, timings=timings))

    def drop_stream(self, stream_id: int) -> None:
        for active in [each for each in self._actives.values() if each.key[0] == stream_id]:
            self._forget(active)

    def step(self) -> Iterator[StepOutputs]:
        """One step, to be iterated to its end: outputs of decoding come before those of prefill.

        So decoded tokens do not wait for prefill.
        """
        now_s = self._clock()
        self._end_expired(now_s)
        self._scheduler.admit(now_s)
        before, self._launched = self._launched, self._decode.launch()
        if before is not None:
            self._collect(before)
        elif self._launched is None:
            # Nothing else bounds how much prefill is under way.
            mx.synchronize()
        # Now that their last tokens are collected, nothing is under way for them.
        self._isolate(self._decode.take_failed())
        self._note_times(rows=len(before.rows) if before is not None else 0)
        if self._scheduler.reading:
            yield self._take_outputs()
        self._read_prompts()
        if self.idle:
            self._decode.drop_finished()
        self.turns += 1
        if self.turns % _TURNS_BETWEEN_CLEARS == 0:
            mx.clear_cache()
        yield self._take_outputs()

    def _end_expired(self, now_s: float) -> None:
        for active in list(self._actives.values()):
            deadline_s = active.request.deadline_s
            if deadline_s is not None and now_s >= deadline_s:
                self._fail(active, DeadlineExceeded("the deadline passed; allow more time"))

    def _collect(self, launched: LaunchedStep) -> None:
        tokens = launched.read()
        now_s = self._clock()
        for active, token in zip(launched.rows, tokens, strict=True):
            if active.ended:
                continue
            active.collect(token, now_s)
            self._failures_in_a_row = 0
            if token in active.request.end_token_ids:
                self._finish(active, FinishReason.STOP, token, now_s)
            elif active.collected >= active.request.max_tokens:
                self._finish(active, FinishReason.LENGTH, token, now_s)
            else:
                may_wait = active.collected > 1 and not self._scheduler.reading
                self._tell(active, Update(active.key[1], token_ids=(token,), may_wait=may_wait))

    def _finish(
        self, active: ActiveSequence, reason: FinishReason, token: int, now_s: float
    ) -> None:
        timings = active.timings(now_s)
        last = Update(active.key[1], token_ids=(token,), finish_reason=reason, timings=timings)
        self._end(active, last)

    def _look_up(self, active: ActiveSequence) -> None:
        if active.looked_up != self._prefixes.version:
            # The last token is always read: it is the first decode step's input.
            active.start_after(self._prefixes.known(active.tokens[:-1]))
            active.looked_up = self._prefixes.version

    def _look_up_again(self) -> None:
        """What others read in the meantime need not be read."""
        for active in self._scheduler.unread():
            told = active.cached_prompt_tokens
            self._look_up(active)
            if (cached := active.cached_prompt_tokens) != told:
                self._tell(active, Update(active.key[1], cached_tokens=cached))

    def _keep_row(self, active: ActiveSequence, cache: BatchCache, row: int) -> None:
        self._prefixes.keep(active.held_tokens, cache, row)

    def _note_times(self, *, rows: int) -> None:
        """Reading is only started by its own turn; a later one waits for it."""
        now_s = self._clock()
        self._steps.turned(now_s, rows)
        if self._prefill_began is not None:
            began_s, tokens, decoding = self._prefill_began
            self._scheduler.note_prefill_took(now_s - began_s, tokens, decoding=decoding)
        if not rows:
            self._pace.no_step_ended()
        elif (step := self._pace.step_ended(now_s)) is not None:
            self._scheduler.note_decode_took(*step)

    def _read_prompts(self) -> None:
        self._look_up_again()
        slices = self._scheduler.plan_prefill()
        read = read_of(slices)
        decoding = self._launched is not None
        self._prefill_began = (self._clock(), read.tokens, decoding) if read.tokens else None
        self._pace.reads(read)
        self._prefill.begin(slices)
        for slice_ in slices:
            if slice_.first:
                self.prompt_tokens += len(slice_.active.request.prompt)
                self.cached_prompt_tokens += slice_.active.cached_prompt_tokens
        for group in groups(slices, self._batching):
            try:
                cache = self._prefill.read(group)
            except Exception:  # noqa: BLE001 - MLX raises what it likes
                _log.exception("a prompt could not be read")
                self._isolate([slice_.active for slice_ in group])
            else:
                self._note_read(group, cache)

    def _note_read(self, group: list[PrefillSlice], cache: BatchCache) -> None:
        done = [slice_.active for slice_ in group if self._scheduler.advance(slice_)]
        for active in (slice_.active for slice_ in group):
            if not active.output:
                read_tokens = _prompt_tokens_read(active)
                self._tell(active, Update(active.key[1], prefilled_tokens=read_tokens))
        if done:
            for row, active in enumerate(done):
                self._keep_row(active, cache, row)
            self._decode.join(done, cache)

    def _isolate(self, failed: list[ActiveSequence]) -> None:
        """Computes each apart from the others, of which one is to blame; fails it when it was.

        Raises: EngineFailed when every one is.
        """
        for active in failed:
            if active.ended:
                continue
            self._prefill.forget(active.key)
            if active.isolated:
                self._failures_in_a_row += 1
                if self._failures_in_a_row == _MAX_FAILURES_IN_A_ROW:
                    raise EngineFailed("every sequence fails by itself")
                self._fail(active, EngineFailed("the engine failed on this sequence"))
            else:
                active.isolate()
                self._scheduler.read_again(active)

    def _fail(self, active: ActiveSequence, error: MeshError) -> None:
        timings = active.timings(self._clock())
        self._end(active, Update(active.key[1], error=error, timings=timings))

    def _end(self, active: ActiveSequence, last: Update) -> None:
        self._tell(active, last)
        self._forget(active)

    def _forget(self, active: ActiveSequence) -> None:
        active.ended = True
        self._scheduler.remove(active)
        self._prefill.forget(active.key)
        self._actives.pop(active.key, None)

    def _take_outputs(self) -> StepOutputs:
        outputs, self._outputs = self._outputs, {}
        return outputs

    def _tell(self, active: ActiveSequence, update: Update) -> None:
        self._outputs.setdefault(active.key[0], []).append(update)


def _prompt_tokens_read(active: ActiveSequence) -> int:
    prompt_tokens = len(active.request.prompt)
    # The last token of all is read by the first decode step.
    return (
        prompt_tokens
        if active.prefilled == active.prefill_tokens
        else min(active.prefilled, prompt_tokens)
    )
