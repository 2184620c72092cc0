"""One turn of the engine: start a decode step, collect the one before, read a slice of prompts.

Runs on the MLX thread. The next step is started before the last one's tokens are read, so that
building it costs no time; a row that turns out to have ended is dropped before the step after.
"""

import logging
import time
from collections.abc import Callable

import mlx.core as mx

from mlxmesh_engine.decode import DecodeBatch, Launched
from mlxmesh_engine.kv_cache import BatchCache
from mlxmesh_engine.loader import LoadedModel
from mlxmesh_engine.prefill import Prefill, groups
from mlxmesh_engine.request import FinishReason, Sequence, SequenceKey, Update
from mlxmesh_engine.scheduler import Active, PrefillSlice, Scheduler
from mlxmesh_shared.errors import DeadlineExceeded, EngineFailed, MeshError

_log = logging.getLogger(__name__)

News = dict[int, list[Update]]
"""By stream id, in order."""

# MLX keeps freed buffers for reuse; a changing batch leaves sizes that are never asked for again.
_TURNS_BETWEEN_CLEARS = 512


class StepLoop:
    """All sequences of one engine."""

    def __init__(
        self,
        loaded: LoadedModel,
        scheduler: Scheduler,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._decode = DecodeBatch(loaded)
        self._prefill = Prefill(loaded)
        self._actives: dict[SequenceKey, Active] = {}
        self._launched: Launched | None = None
        self._clock = clock
        self._news: News = {}
        self.turns = 0

    @property
    def idle(self) -> bool:
        return not self._actives

    @property
    def kv_bytes(self) -> int:
        return self._decode.kv_bytes + self._prefill.kv_bytes

    def submit(self, request: Sequence) -> None:
        active = self._actives[request.key] = Active(request)
        self._scheduler.add(active)
        self._tell(active, Update(active.key[1], accepted=True))

    def cancel(self, key: SequenceKey) -> None:
        if (active := self._actives.get(key)) is not None:
            self._end(active, Update(key[1], finish_reason=FinishReason.CANCELLED))

    def drop_stream(self, stream_id: int) -> None:
        for active in [each for each in self._actives.values() if each.key[0] == stream_id]:
            self._forget(active)

    def turn(self) -> News:
        """One step; returns the news since the last turn."""
        now_s = self._clock()
        self._end_expired(now_s)
        self._scheduler.admit(now_s)
        before, self._launched = self._launched, self._decode.launch()
        if before is not None:
            self._collect(before)
        elif self._launched is None:
            # Nothing else bounds how much prefill is under way.
            mx.synchronize()
        self._read_prompts(self._scheduler.plan_prefill())
        self.turns += 1
        if self.turns % _TURNS_BETWEEN_CLEARS == 0:
            mx.clear_cache()
        news, self._news = self._news, {}
        return news

    def _end_expired(self, now_s: float) -> None:
        for active in list(self._actives.values()):
            deadline_s = active.request.deadline_s
            if deadline_s is not None and now_s >= deadline_s:
                self._fail(active, DeadlineExceeded("the deadline passed; allow more time"))

    def _collect(self, launched: Launched) -> None:
        tokens = launched.read()
        now_s = self._clock()
        for active, token in zip(launched.rows, tokens, strict=True):
            if active.ended:
                continue
            active.collect(now_s)
            update = Update(active.key[1], token_ids=(token,))
            if token in active.request.end_token_ids:
                self._finish(active, FinishReason.STOP, token)
            elif active.collected >= active.request.max_tokens:
                self._finish(active, FinishReason.LENGTH, token)
            else:
                self._tell(active, update)

    def _finish(self, active: Active, reason: FinishReason, token: int) -> None:
        last = Update(
            active.key[1], token_ids=(token,), finish_reason=reason, timings=active.timings()
        )
        self._end(active, last)

    def _read_prompts(self, slices: list[PrefillSlice]) -> None:
        for group in groups(slices):
            try:
                cache = self._prefill.read(group)
            except Exception:  # noqa: BLE001 - MLX raises what it likes
                # Its cache is its own, so nobody else is harmed. In a decode step all are.
                _log.exception("a prompt could not be read")
                for slice_ in group:
                    self._fail(slice_.active, EngineFailed("the engine failed on this prompt"))
            else:
                self._note_read(group, cache)

    def _note_read(self, group: list[PrefillSlice], cache: BatchCache) -> None:
        done = [slice_.active for slice_ in group if self._scheduler.advance(slice_)]
        for slice_ in group:
            active = slice_.active
            self._tell(active, Update(active.key[1], prefilled_tokens=_prompt_tokens_read(active)))
        if done:
            self._decode.join(done, cache)

    def _fail(self, active: Active, error: MeshError) -> None:
        self._end(active, Update(active.key[1], error=error))

    def _end(self, active: Active, last: Update) -> None:
        self._tell(active, last)
        self._forget(active)

    def _forget(self, active: Active) -> None:
        active.ended = True
        self._scheduler.remove(active)
        self._prefill.forget(active.key)
        self._actives.pop(active.key, None)

    def _tell(self, active: Active, update: Update) -> None:
        self._news.setdefault(active.key[0], []).append(update)


def _prompt_tokens_read(active: Active) -> int:
    prompt_tokens = len(active.request.prompt)
    # The last token of all is read by the first decode step.
    return (
        prompt_tokens
        if active.prefilled == active.prefill_tokens
        else min(active.prefilled, prompt_tokens)
    )
