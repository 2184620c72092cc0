"""Reports outcomes in batches: each is sent until it is acknowledged, always with its number.

A generation costs one append to a queue; a token costs nothing.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from mlxmesh_generation.domain.outcome import Outcome
from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics

BATCH_SIZE = 1000
"""The contract's limit."""
INTERVAL_S = 1.0
"""Outcomes of a process that is killed within this time are lost."""
MAX_RETRY_S = 5.0
MAX_QUEUED = 20_000
"""About 10 MB: the outcomes of seven minutes at 50 a second."""
FLUSH_S = 2.0

DROPPED = Instrument(
    "mlxmesh.generation.outcomes.dropped",
    Kind.COUNTER,
    "{outcome}",
    "Outcomes that history lacks, because too many waited for the model service or it refused them",
)
WAITING = Instrument(
    "mlxmesh.generation.outcomes.waiting",
    Kind.GAUGE,
    "{outcome}",
    "Outcomes that the model service has not recorded yet",
)

_log = logging.getLogger("mlxmesh.generation")


class Batch(NamedTuple):
    """Outcomes that are recorded together, once, however often they are sent."""

    number: int
    """From 1 on, in this process."""
    outcomes: Sequence[Outcome]


Send = Callable[[Batch], Awaitable[None]]
"""Returns once the batch is recorded. Raises: MeshError; InvalidArgument for one that never is."""


class OutcomeReporter:
    """Reports what `record` is given, while `running`."""

    def __init__(
        self,
        send: Send,
        *,
        interval_s: float = INTERVAL_S,
        max_queued: int = MAX_QUEUED,
        flush_s: float = FLUSH_S,
        metrics: Metrics | None = None,
    ) -> None:
        """flush_s: how long the end of `running` may take to send what is left."""
        self.dropped = 0
        self._send = send
        self._interval_s = interval_s
        self._max_queued = max_queued
        self._flush_s = flush_s
        self._queue: deque[Outcome] = deque()
        self._arrived = asyncio.Event()
        self._batch = Batch(0, ())
        """The last one that was sent; without outcomes once it is done."""
        metrics = metrics or Metrics()
        metrics.observe_value(DROPPED, lambda: self.dropped)
        metrics.observe_value(WAITING, lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """The number of outcomes that are not recorded yet."""
        return len(self._queue) + len(self._batch.outcomes)

    def record(self, outcome: Outcome) -> None:
        """Reports it within a second or so; drops it where too many wait."""
        if len(self._queue) >= self._max_queued:
            self.dropped += 1
            return
        self._queue.append(outcome)
        self._arrived.set()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Reports until the body ends, then tries for a moment to send what is left."""
        task = asyncio.create_task(self._run(), name="report-outcomes")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._flush()

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._queue) < BATCH_SIZE:
                await asyncio.sleep(self._interval_s)
            await self._send_all(retry_s=self._interval_s)

    async def _flush(self) -> None:
        try:
            async with asyncio.timeout(self._flush_s):
                await self._send_all(retry_s=self._flush_s / 8)
        except TimeoutError:
            _log.warning("%d outcomes were not reported and are lost", self.waiting)

    async def _send_all(self, *, retry_s: float) -> None:
        """Sends everything in batches, waiting longer after each failure."""
        delay_s = retry_s
        while self._next_batch():
            if await self._is_done(self._batch):
                self._batch = Batch(self._batch.number, ())
                delay_s = retry_s
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, MAX_RETRY_S)
        self._arrived.clear()

    def _next_batch(self) -> bool:
        """Whether there is a batch to send: the one that is not done, or else the next one."""
        if not self._batch.outcomes and self._queue:
            size = min(BATCH_SIZE, len(self._queue))
            outcomes = [self._queue.popleft() for _ in range(size)]
            self._batch = Batch(self._batch.number + 1, outcomes)
        return bool(self._batch.outcomes)

    async def _is_done(self, batch: Batch) -> bool:
        try:
            await self._send(batch)
        except InvalidArgument as error:
            self.dropped += len(batch.outcomes)
            _log.error("outcomes were refused and are dropped: %s", error.message)
        except MeshError as error:
            _log.debug("outcomes wait for the model service: %s", error.reason)
            return False
        except Exception:  # noqa: BLE001 - reporting must not end
            _log.exception("outcomes could not be reported; trying again")
            return False
        return True
