"""Reports pairs and drops in numbered batches; each is sent until it is acknowledged."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from mlxmesh_generation.shadowing.pair import DropReason, Pair
from mlxmesh_shared.errors import InvalidArgument, MeshError, NotFound

MAX_PAIRS = 1000
"""In one batch: the contract's limit."""
MAX_QUEUED = 10_000
"""Pairs of one shadow that wait for the model service, about 4 MB."""
INTERVAL_S = 1.0
MAX_RETRY_S = 5.0
FLUSH_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Pairs and drops of one shadow that are recorded together, once, however often sent."""

    number: int
    """From 1 on, in this process."""
    shadow_id: str
    pairs: Sequence[Pair]
    drops: Mapping[DropReason, int]


Send = Callable[[Batch], Awaitable[None]]
"""Returns once the batch is recorded. Raises: MeshError; InvalidArgument and NotFound for one that
never is."""


@dataclass
class _Pending:
    pairs: list[Pair] = field(default_factory=list[Pair])
    drops: Counter[DropReason] = field(default_factory=Counter[DropReason])


class PairReporter:
    """Reports what it is given, while `running`."""

    def __init__(
        self,
        send: Send,
        *,
        interval_s: float = INTERVAL_S,
        max_queued: int = MAX_QUEUED,
        flush_s: float = FLUSH_S,
    ) -> None:
        """flush_s: how long the end of `running` may take to send what is left."""
        self._send = send
        self._interval_s = interval_s
        self._max_queued = max_queued
        self._flush_s = flush_s
        self._pending: dict[str, _Pending] = {}
        self._arrived = asyncio.Event()
        self._number = 0
        self._batch: Batch | None = None
        """The one that is not done."""

    def record_pair(self, shadow_id: str, pair: Pair) -> None:
        """Satisfies RecordPair; where too many wait, the pair counts as dropped."""
        pending = self._pending_of(shadow_id)
        if len(pending.pairs) < self._max_queued:
            pending.pairs.append(pair)
        else:
            pending.drops[DropReason.NO_ROOM] += 1

    def record_drop(self, shadow_id: str, reason: DropReason) -> None:
        """Satisfies RecordDrop."""
        self._pending_of(shadow_id).drops[reason] += 1

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Reports until the body ends, then tries for a moment to send what is left."""
        task = asyncio.create_task(self._run(), name="report shadow pairs")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._flush()

    def _pending_of(self, shadow_id: str) -> _Pending:
        self._arrived.set()
        return self._pending.setdefault(shadow_id, _Pending())

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(self._interval_s)
            await self._send_all(retry_s=self._interval_s)

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(self._flush_s):
                await self._send_all(retry_s=self._flush_s / 8)
        except TimeoutError:
            _log.warning("some pairs of shadows were not reported and are lost")

    async def _send_all(self, *, retry_s: float) -> None:
        """Sends everything in batches, waiting longer after each failure."""
        delay_s = retry_s
        while (batch := self._next_batch()) is not None:
            if await self._is_done(batch):
                self._batch, delay_s = None, retry_s
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, MAX_RETRY_S)
        self._arrived.clear()

    def _next_batch(self) -> Batch | None:
        """The one that is not done, or else the next one."""
        if self._batch is None and self._pending:
            shadow_id, pending = next(iter(self._pending.items()))
            self._number += 1
            pairs, later = pending.pairs[:MAX_PAIRS], pending.pairs[MAX_PAIRS:]
            self._batch = Batch(self._number, shadow_id, pairs, dict(pending.drops))
            if later:
                self._pending[shadow_id] = _Pending(later)
            else:
                del self._pending[shadow_id]
        return self._batch

    async def _is_done(self, batch: Batch) -> bool:
        try:
            await self._send(batch)
        except (InvalidArgument, NotFound) as error:
            _log.warning("pairs of shadow %s are lost: %s", batch.shadow_id, error.message)
        except MeshError as error:
            _log.debug("pairs of shadows wait for the model service: %s", error.reason)
            return False
        except Exception:  # noqa: BLE001 - reporting must not end
            _log.exception("pairs of shadows could not be reported; trying again")
            return False
        return True
