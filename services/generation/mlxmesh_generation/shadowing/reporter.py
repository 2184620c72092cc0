"""Reports pairs and drops of shadows in batches."""

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from mlxmesh_generation.reporting.sender import FLUSH_S, INTERVAL_S, BatchSender
from mlxmesh_generation.shadowing.pair import DropReason, Pair
from mlxmesh_shared.errors import MeshError

MAX_PAIRS = 1000
"""In one batch: the contract's limit."""
MAX_QUEUED = 10_000
"""Pairs of one shadow that wait for the model service, about 4 MB."""

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
"""As `send` of BatchSender."""


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
        self._max_queued = max_queued
        self._pending: dict[str, _Pending] = {}
        self._sender = BatchSender(
            self._take, send, _note_refused, interval_s=interval_s, flush_s=flush_s
        )

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

    def running(self) -> AbstractAsyncContextManager[None]:
        """Reports until the body ends, then tries for a moment to send what is left."""
        return self._sender.running()

    def _pending_of(self, shadow_id: str) -> _Pending:
        self._sender.wake()
        return self._pending.setdefault(shadow_id, _Pending())

    def _take(self, number: int) -> Batch | None:
        if not self._pending:
            return None
        shadow_id, pending = next(iter(self._pending.items()))
        pairs, later = pending.pairs[:MAX_PAIRS], pending.pairs[MAX_PAIRS:]
        if later:
            self._pending[shadow_id] = _Pending(later)
        else:
            del self._pending[shadow_id]
        return Batch(number, shadow_id, pairs, dict(pending.drops))


def _note_refused(batch: Batch, error: MeshError) -> None:
    _log.warning("pairs of shadow %s are lost: %s", batch.shadow_id, error.message)
