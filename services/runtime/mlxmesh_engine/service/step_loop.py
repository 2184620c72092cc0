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

from mlxmesh_engine.adapters.slots import AdapterSlots
from mlxmesh_engine.cache.kv_cache import RowsCache
from mlxmesh_engine.cpu.forward import Interrupted
from mlxmesh_engine.forward.decode_groups import DecodeGroups, LaunchedStep
from mlxmesh_engine.forward.interruption import Interruption
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.forward.prefill import Prefill, Prefilled
from mlxmesh_engine.forward.row_copies import copy_rows
from mlxmesh_engine.prefixes.directory import PrefixDirectory
from mlxmesh_engine.prefixes.store import open_prefix_store
from mlxmesh_engine.scheduling.prefill_plan import PrefillSlice
from mlxmesh_engine.scheduling.request import (
    Logprobs,
    PrefixDiskLoad,
    SequenceKey,
    SequenceRequest,
    StepOutputs,
    Update,
)
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.sequence_table import SequenceTable
from mlxmesh_engine.service.prefix_reads import PrefixReads
from mlxmesh_engine.service.step_measurements import StepMeasurements
from mlxmesh_engine.service.telemetry import StepMetrics
from mlxmesh_engine.speculation.speculation import NoSpeculation, Speculation
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
        adapters: AdapterSlots | None = None,
        prefix_directory: PrefixDirectory | None = None,
        on_prefix_read: Callable[[], None] = lambda: None,
        speculation: Speculation | None = None,
        metrics: StepMetrics | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """adapters: those that the scheduler asks; None: no request names any.

        prefix_directory: the prefixes on disk.

        on_prefix_read: called on any thread when the next step may have more to do.
        interrupted: whether background work must end early; may be called at any time.
        """
        self._scheduler = scheduler
        self._batching = loaded.batching
        self._asynchronous = loaded.model.asynchronous
        self._prefixes = open_prefix_store(
            loaded.model.new_cache([None]), prefix_cache_bytes, prefix_directory
        )
        self._directory = prefix_directory
        self._reads = PrefixReads(self._prefixes, on_read=on_prefix_read, clock=clock)
        self._interruption = Interruption(loaded.model, interrupted)
        self._speculation = speculation or NoSpeculation()
        self._decode = DecodeGroups(
            loaded,
            self._interruption,
            on_leave=self._cache_prefix,
            speculation=self._speculation,
        )
        self._prefill = Prefill(loaded, self._prefixes)
        self._adapters = adapters
        self._sequences = SequenceTable(on_remove=self._release)
        self._launched: LaunchedStep | None = None
        self._clock = clock
        self._overlapping = loaded.device != "cpu"
        self._measurements = StepMeasurements(
            scheduler, self._speculation, metrics or StepMetrics(), overlapping=self._overlapping
        )
        self._consecutive_failures = 0
        self.steps = 0
        self.prompt_tokens = 0
        self.cached_prompt_tokens = 0
        """Of all prompts whose prefill began: their tokens, and how many of them were cached."""

    @property
    def idle(self) -> bool:
        return not self._sequences

    @property
    def blocked(self) -> bool:
        """Whether all sequences wait for adapters, or prefixes on disk, that are being read."""
        all_read = 0 < len(self._reads) == len(self._sequences)
        return all_read or self._scheduler.blocked

    @property
    def adapters(self) -> tuple[str, ...]:
        """The digests of the adapters in slots."""
        return self._adapters.digests if self._adapters is not None else ()

    @property
    def proposed_tokens(self) -> int:
        """Of all sequences."""
        return self._measurements.proposed_tokens

    @property
    def accepted_tokens(self) -> int:
        """How many of the proposed tokens became output."""
        return self._measurements.accepted_tokens

    @property
    def kv_bytes(self) -> int:
        return self._decode.kv_bytes + self._prefill.kv_bytes + self._speculation.kv_bytes

    @property
    def prefix_bytes(self) -> int:
        return self._prefixes.nbytes

    @property
    def prefix_disk(self) -> PrefixDiskLoad:
        return self._directory.load if self._directory else PrefixDiskLoad()

    def submit(self, request: SequenceRequest) -> None:
        active = self._sequences.add(request)
        if not self._reads.start(active):
            self._enqueue(active)

    def _enqueue(self, active: ActiveSequence) -> None:
        self._scheduler.add(active)
        self._look_up_prefix(active)
        cached = active.cached_prompt_tokens
        request = active.request
        expanded = None if request.images is None else len(request.prompt)
        update = Update(active.key[1], accepted=True, prompt_tokens=expanded, cached_tokens=cached)
        self._sequences.emit(active, update)

    def cancel(self, key: SequenceKey) -> None:
        self._sequences.cancel(key, self._clock())

    def drop_stream(self, stream_id: int) -> None:
        self._sequences.drop_stream(stream_id)

    def step(self) -> Iterator[StepOutputs]:
        """Runs one step when iterated to the end.

        Yields the outputs of decode before prefill runs, so that tokens do not wait for it.
        """
        now_s = self._clock()
        self._measurements.began(now_s)
        self._sequences.fail_expired(now_s)
        self._admit(now_s)
        turn = self._scheduler.background_turn()
        previous, self._launched = self._launched, None
        # Proposals follow the last tokens: where some are likely, these are not computed meanwhile.
        uncollected = previous
        if previous is not None and self._decode.may_propose:
            self._collect(previous)
            uncollected = None
        launched = self._launched = self._decode.launch(background=turn.decode)
        if uncollected is not None:
            self._collect(uncollected)
        if launched is None:
            # Nothing else bounds how much prefill is under way.
            mx.synchronize()
        elif self._is_urgent(launched):
            self._launched = None
            self._collect(launched)
        # Only now: their last tokens are collected, and no computation is under way for them.
        self._isolate(self._decode.pop_failed())
        self._measurements.decode_launched(
            self._clock(), previous=previous, launched=launched, turn=turn
        )
        if self._scheduler.prefilling or turn.prefill:
            yield self._sequences.pop_outputs()
        self._prefill_prompts()
        if turn.prefill:
            self._prefill_background()
        self._tidy_up()
        yield self._sequences.pop_outputs()

    def _tidy_up(self) -> None:
        if self.idle:
            self._decode.drop_finished()
        self._prefixes.flush(idle=self.idle)
        self.steps += 1
        if self.steps % _STEPS_BETWEEN_CACHE_CLEARS == 0:
            mx.clear_cache()

    def _admit(self, now_s: float) -> None:
        for active in self._reads.ready():
            self._enqueue(active)
        if self._launched is not None and self._scheduler.must_requeue:
            self._collect(self._launched)
            self._launched = None
        if self._adapters is not None:
            self._adapters.poll()
        for active in self._scheduler.admit(now_s):
            self._decode.remove(active)
            self._prefill.remove(active.key)
            active.requeue()
        if self._adapters is not None:
            for active, error in self._adapters.pop_failed():
                self._sequences.fail(active, error, now_s)

    def _is_urgent(self, launched: LaunchedStep) -> bool:
        """Whether its tokens would be late if it were collected after the next launch."""
        if launched.verified:
            return True
        if self._overlapping:
            return False
        if not self._asynchronous:
            return True
        return self._scheduler.prefilling or any(not active.output for active in launched.rows)

    def _collect(self, launched: LaunchedStep) -> None:
        tokens, logprobs = launched.wait(), launched.read_logprobs()
        now_s = self._clock()
        for active, own, its in zip(launched.rows, tokens, logprobs, strict=True):
            if active.ended:
                continue
            if (error := launched.error_of(active)) is not None:
                self._sequences.fail(active, error, now_s)
            else:
                self._consecutive_failures = 0
                deferrable = active.generated_tokens > 0 and not self._scheduler.prefilling
                self._sequences.append_tokens(
                    active, own, now_s, deferrable=deferrable, logprobs=its
                )

    def _look_up_prefix(self, active: ActiveSequence) -> None:
        if active.prefix_version != self._prefixes.version and not active.needs_prompt_scores:
            # The last token is never skipped: it is the input of the first decode step.
            namespace = active.request.prefix_namespace
            tokens = active.prefix_ids_of(active.tokens[:-1])
            active.skip_cached(self._prefixes.count_cached(tokens, namespace))
            active.pause_at = self._prefixes.cut(tokens, namespace)
            active.prefix_version = self._prefixes.version

    def _refresh_prefixes(self, *, background: bool = False) -> None:
        """Repeats the look-up before prefill starts: other sequences may have filled the cache."""
        for active in self._scheduler.awaiting_prefill(background=background):
            emitted = active.cached_prompt_tokens
            self._look_up_prefix(active)
            if (cached := active.cached_prompt_tokens) != emitted:
                self._sequences.emit(active, Update(active.key[1], cached_tokens=cached))

    def _cache_prefix(self, active: ActiveSequence, cache: RowsCache, row: int) -> None:
        namespace = active.request.prefix_namespace
        tokens = active.prefix_ids_of(active.kv_token_ids)
        self._prefixes.insert(tokens, namespace, cache, row)

    def _cache_paused(self, slice_: PrefillSlice, cache: RowsCache, row: int) -> None:
        active = slice_.active
        tokens = active.prefix_ids_of(active.tokens[: slice_.start + slice_.count])
        self._prefixes.insert(tokens, active.request.prefix_namespace, cache, row)

    def _prefill_prompts(self) -> None:
        self._refresh_prefixes()
        slices = self._scheduler.plan_prefill()
        self._measurements.prefill_started(slices)
        self._prefill.load_prefixes(slices)
        for group in self._prefill.groups(slices):
            self._run_prefill(group)

    def _prefill_background(self) -> None:
        self._refresh_prefixes(background=True)
        slices = self._scheduler.plan_background_prefill()
        self._prefill.load_prefixes(slices)
        for group in self._prefill.groups(slices):
            began_s = self._clock()
            # Scores come in several passes, of which the first ones could not be undone.
            if any(slice_.scored for slice_ in group):
                self._run_prefill(group)
                continue
            completed = False
            with self._interruption.allowed():
                self._run_prefill(group)
                completed = True
            if not completed:
                self._scheduler.interrupted_background_prefill()
                return
            if self._asynchronous:
                # Its time decides how large the next ones are.
                mx.synchronize()
            tokens = sum(slice_.count for slice_ in group)
            self._scheduler.record_background_prefill(self._clock() - began_s, tokens)

    def _run_prefill(self, group: list[PrefillSlice]) -> None:
        """Prefills one group. Raises: Interrupted; then nothing has changed."""
        try:
            prefilled = self._prefill.run(group)
        except Interrupted:
            raise
        except Exception:  # noqa: BLE001 - MLX may raise anything
            _log.exception("the prefill of a prompt failed")
            self._isolate([slice_.active for slice_ in group])
        else:
            self._advance(group, prefilled)

    def _count_prompt(self, active: ActiveSequence) -> None:
        if not active.requeued:
            self.prompt_tokens += len(active.request.prompt)
            self.cached_prompt_tokens += active.cached_prompt_tokens

    def _advance(self, group: list[PrefillSlice], prefilled: Prefilled) -> None:
        """Records a prefilled group; complete prompts join the decode batch."""
        for row, slice_ in enumerate(group):
            if slice_.first:
                self._count_prompt(slice_.active)
            if slice_.pauses:
                self._cache_paused(slice_, prefilled.cache, row)
        done = [slice_.active for slice_ in group if self._scheduler.advance(slice_)]
        for slice_, logprobs in zip(group, prefilled.logprobs, strict=True):
            self._emit_progress(slice_.active, logprobs)
        if done:
            for row, active in enumerate(done):
                self._cache_prefix(active, prefilled.cache, row)
            self._join(done, prefilled.cache)

    def _emit_progress(self, active: ActiveSequence, logprobs: Logprobs | None) -> None:
        if active.output or (active.request.background and logprobs is None):
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
        self._reads.remove(active)
        self._scheduler.remove(active)
        self._prefill.remove(active.key)
