"""One step of the engine: launch a decode step, collect the previous one, prefill prompts.

Runs on the MLX thread. The next decode step is launched before the tokens of the previous one are
read, so that building its graph costs no time. A row that turns out to have ended is dropped before
the step after that.

On a CPU a launch returns only when most of it is computed, so the tokens of the previous step are
late by a whole step, and by a prefill where there is one. A step is therefore collected at once if
prefill follows or a sequence gets its first token; always, if the launch has computed all of it.
"""

import logging
import time
from collections.abc import Callable, Iterator

import mlx.core as mx

from mlxmesh_engine.cache.kv_cache import RowsCache
from mlxmesh_engine.cache.prefix_store import PrefixStore
from mlxmesh_engine.forward.decode_groups import DecodeGroups, LaunchedStep
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.forward.prefill import Prefill, Prefilled
from mlxmesh_engine.forward.row_copies import copy_rows
from mlxmesh_engine.scheduling.request import (
    Logprobs,
    SequenceKey,
    SequenceRequest,
    StepOutputs,
    Update,
)
from mlxmesh_engine.scheduling.scheduler import PrefillSlice, Scheduler, count_tokens
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.sequence_table import SequenceTable
from mlxmesh_engine.scheduling.step_times import StepTimes
from mlxmesh_engine.service.telemetry import StepMetrics
from mlxmesh_shared.errors import EngineFailed

_log = logging.getLogger(__name__)

# MLX keeps freed buffers for reuse; a changing batch leaves buffers of sizes that never recur.
_STEPS_BETWEEN_CACHE_CLEARS = 512
# If so many isolated sequences fail without a token in between, the engine itself is broken.
_MAX_CONSECUTIVE_FAILURES = 8


class StepLoop:
    """All sequences of one engine."""

    def __init__(
        self,
        loaded: LoadedModel,
        scheduler: Scheduler,
        *,
        prefix_cache_bytes: int = 0,
        metrics: StepMetrics | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._batching = loaded.batching
        self._asynchronous = loaded.model.asynchronous
        self._prefixes = PrefixStore(loaded.model.new_cache([None]), prefix_cache_bytes)
        self._decode = DecodeGroups(loaded, on_leave=self._cache_prefix)
        self._prefill = Prefill(loaded, self._prefixes)
        self._sequences = SequenceTable(on_remove=self._release)
        self._launched: LaunchedStep | None = None
        self._clock = clock
        self._overlapping = loaded.device != "cpu"
        self._times = StepTimes(overlapping=self._overlapping)
        self._metrics = metrics or StepMetrics()
        self._consecutive_failures = 0
        self.steps = 0
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        """Of all prompts whose prefill began: their tokens, and how many of them were cached."""

    @property
    def idle(self) -> bool:
        return not self._sequences

    @property
    def kv_bytes(self) -> int:
        return self._decode.kv_bytes + self._prefill.kv_bytes

    @property
    def prefix_bytes(self) -> int:
        return self._prefixes.nbytes

    def submit(self, request: SequenceRequest) -> None:
        active = self._sequences.add(request)
        self._scheduler.add(active)
        self._look_up_prefix(active)
        cached = active.cached_prompt_tokens
        self._sequences.emit(active, Update(active.key[1], accepted=True, cached_tokens=cached))

    def cancel(self, key: SequenceKey) -> None:
        self._sequences.cancel(key, self._clock())

    def drop_stream(self, stream_id: int) -> None:
        self._sequences.drop_stream(stream_id)

    def step(self) -> Iterator[StepOutputs]:
        """Runs one step when iterated to the end.

        Yields the outputs of decode before prefill runs, so that tokens do not wait for it.
        """
        now_s = self._clock()
        self._sequences.fail_expired(now_s)
        self._scheduler.admit(now_s)
        previous, self._launched = self._launched, self._decode.launch()
        launched = self._launched
        if previous is not None:
            self._collect(previous)
        if launched is None:
            # Nothing else bounds how much prefill is under way.
            mx.synchronize()
        elif self._is_urgent(launched):
            self._launched = None
            self._collect(launched)
        # Only now: their last tokens are collected, and no computation is under way for them.
        self._isolate(self._decode.pop_failed())
        self._record_times(previous, launched)
        if self._scheduler.prefilling:
            yield self._sequences.pop_outputs()
        self._prefill_prompts()
        if self.idle:
            self._decode.drop_finished()
        self.steps += 1
        if self.steps % _STEPS_BETWEEN_CACHE_CLEARS == 0:
            mx.clear_cache()
        yield self._sequences.pop_outputs()

    def _is_urgent(self, launched: LaunchedStep) -> bool:
        """Whether its tokens would be late if it were collected after the next launch."""
        if self._overlapping:
            return False
        if not self._asynchronous:
            return True
        return self._scheduler.prefilling or any(not active.output for active in launched.rows)

    def _collect(self, launched: LaunchedStep) -> None:
        tokens, logprobs = launched.wait(), launched.read_logprobs()
        now_s = self._clock()
        for active, token, its in zip(launched.rows, tokens, logprobs, strict=True):
            if active.ended:
                continue
            if (error := launched.error_of(active)) is not None:
                self._sequences.fail(active, error, now_s)
            else:
                self._consecutive_failures = 0
                deferrable = active.generated_tokens > 0 and not self._scheduler.prefilling
                self._sequences.append_token(
                    active, token, now_s, deferrable=deferrable, logprobs=its
                )

    def _look_up_prefix(self, active: ActiveSequence) -> None:
        if active.prefix_version != self._prefixes.version and not active.needs_prompt_scores:
            # The last token is never skipped: it is the input of the first decode step.
            active.skip_cached(self._prefixes.count_cached(active.tokens[:-1]))
            active.prefix_version = self._prefixes.version

    def _refresh_prefixes(self) -> None:
        """Repeats the look-up before prefill starts: other sequences may have filled the cache."""
        for active in self._scheduler.awaiting_prefill():
            emitted = active.cached_prompt_tokens
            self._look_up_prefix(active)
            if (cached := active.cached_prompt_tokens) != emitted:
                self._sequences.emit(active, Update(active.key[1], cached_tokens=cached))

    def _cache_prefix(self, active: ActiveSequence, cache: RowsCache, row: int) -> None:
        self._prefixes.insert(active.kv_token_ids, cache, row)

    def _record_times(self, previous: LaunchedStep | None, launched: LaunchedStep | None) -> None:
        """A step only starts its prefill; the next step waits for the result."""
        now_s = self._clock()
        ended = previous if self._overlapping else launched
        self._metrics.record(now_s, len(ended.rows) if ended is not None else 0)
        if self._overlapping and (previous is None) != (launched is None):
            self._times.reset()
        elif step_time := self._times.ended(now_s, decoding=launched is not None):
            self._scheduler.record_step(step_time)

    def _prefill_prompts(self) -> None:
        self._refresh_prefixes()
        slices = self._scheduler.plan_prefill()
        self._times.prefill_started(count_tokens(slices))
        self._prefill.load_prefixes(slices)
        for slice_ in slices:
            if slice_.first:
                self._count_prompt(slice_.active)
        for group in self._prefill.groups(slices):
            try:
                prefilled = self._prefill.run(group)
            except Exception:  # noqa: BLE001 - MLX may raise anything
                _log.exception("the prefill of a prompt failed")
                self._isolate([slice_.active for slice_ in group])
            else:
                self._advance(group, prefilled)

    def _count_prompt(self, active: ActiveSequence) -> None:
        self.prompt_tokens += len(active.request.prompt)
        self.cached_prompt_tokens += active.cached_prompt_tokens

    def _advance(self, group: list[PrefillSlice], prefilled: Prefilled) -> None:
        """Records a prefilled group; complete prompts join the decode batch."""
        done = [slice_.active for slice_ in group if self._scheduler.advance(slice_)]
        for slice_, logprobs in zip(group, prefilled.logprobs, strict=True):
            self._emit_progress(slice_.active, logprobs)
        if done:
            for row, active in enumerate(done):
                self._cache_prefix(active, prefilled.cache, row)
            self._join(done, prefilled.cache)

    def _emit_progress(self, active: ActiveSequence, logprobs: Logprobs | None) -> None:
        if active.output:
            return
        if logprobs is not None:
            active.scored_tokens += len(logprobs.chosen)
        tokens = active.prefilled_prompt_tokens
        self._sequences.emit(
            active, Update(active.key[1], prefilled_tokens=tokens, prompt_logprobs=logprobs)
        )

    def _join(self, done: list[ActiveSequence], cache: RowsCache) -> None:
        """Lets prefilled sequences decode, and with copies of their rows those that follow them."""
        followers = {
            follower: row
            for row, active in enumerate(done)
            for follower in self._scheduler.followers(active)
        }
        # Before the rows join, which may move them. Without copies, followers are prefilled later.
        copies = copy_rows(cache, followers, self._batching)
        self._decode.join(done, cache)
        for actives, copy in copies:
            for active in actives:
                self._copied(active)
            self._decode.join(actives, copy)

    def _copied(self, active: ActiveSequence) -> None:
        self._scheduler.copy_prefill(active)
        self._count_prompt(active)
        tokens, cached = active.prefilled_prompt_tokens, active.cached_prompt_tokens
        update = Update(active.key[1], cached_tokens=cached, prefilled_tokens=tokens)
        self._sequences.emit(active, update)

    def _isolate(self, failed: list[ActiveSequence]) -> None:
        """Restarts each sequence alone, since one of them failed the batch; fails isolated ones.

        Raises: EngineFailed if every sequence fails.
        """
        for active in failed:
            if active.ended:
                continue
            self._prefill.remove(active.key)
            if active.isolated:
                self._consecutive_failures += 1
                if self._consecutive_failures == _MAX_CONSECUTIVE_FAILURES:
                    raise EngineFailed("every sequence fails, also when it runs alone")
                error = EngineFailed("the engine failed on this sequence")
                self._sequences.fail(active, error, self._clock())
            else:
                active.isolate()
                self._scheduler.restart_prefill(active)

    def _release(self, active: ActiveSequence) -> None:
        self._scheduler.remove(active)
        self._prefill.remove(active.key)
