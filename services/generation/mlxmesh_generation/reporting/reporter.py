"""Reports outcomes in batches.

A generation costs one append to a queue; a token costs nothing.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from mlxmesh_generation.domain.outcome import Outcome
from mlxmesh_generation.reporting.sender import FLUSH_S, INTERVAL_S, BatchSender
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics

BATCH_SIZE = 1000
"""The contract's limit."""
MAX_QUEUED = 20_000
"""About 10 MB: the outcomes of seven minutes at 50 a second."""

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
"""As `send` of BatchSender."""


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
        self._max_queued = max_queued
        self._queue: deque[Outcome] = deque()
        self._sender = BatchSender(
            self._take,
            send,
            self._refused,
            is_urgent=lambda: len(self._queue) >= BATCH_SIZE,
            interval_s=interval_s,
            flush_s=flush_s,
        )
        metrics = metrics or Metrics()
        metrics.observe_value(DROPPED, lambda: self.dropped)
        metrics.observe_value(WAITING, lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """The number of outcomes that are not recorded yet."""
        unsent = self._sender.unsent
        return len(self._queue) + (len(unsent.outcomes) if unsent is not None else 0)

    def record(self, outcome: Outcome) -> None:
        """Reports it within a second or so; drops it where too many wait."""
        if len(self._queue) >= self._max_queued:
            self.dropped += 1
            return
        self._queue.append(outcome)
        self._sender.wake()

    def running(self) -> AbstractAsyncContextManager[None]:
        """Reports until the body ends, then tries for a moment to send what is left."""
        return self._sender.running()

    def _take(self, number: int) -> Batch | None:
        size = min(BATCH_SIZE, len(self._queue))
        outcomes = [self._queue.popleft() for _ in range(size)]
        return Batch(number, outcomes) if outcomes else None

    def _refused(self, batch: Batch, error: MeshError) -> None:
        self.dropped += len(batch.outcomes)
        _log.error("outcomes were refused and are dropped: %s", error.message)
