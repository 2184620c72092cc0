"""Sequences whose prefix is being read from disk; no other sequence waits for that."""

from collections.abc import Callable
from dataclasses import dataclass

from mlxmesh_engine.prefixes.store import PrefixStore
from mlxmesh_engine.prefixes.tier import PendingRead
from mlxmesh_engine.scheduling.sequence import ActiveSequence

# A disk that hangs must not stop a sequence: it is prefilled instead.
_MAX_READ_S = 5.0


@dataclass(frozen=True, slots=True)
class _Reading:
    pending: PendingRead
    started_s: float


class PrefixReads:
    """Used on the MLX thread."""

    def __init__(
        self, prefixes: PrefixStore, *, on_read: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        """on_read: called on any thread when one of `ready` may have become so."""
        self._prefixes = prefixes
        self._on_read = on_read
        self._clock = clock
        self._readings: dict[ActiveSequence, _Reading] = {}

    def __len__(self) -> int:
        return len(self._readings)

    def start(self, active: ActiveSequence) -> bool:
        """Whether the sequence must wait: something of its prefix is on disk only."""
        if active.needs_prompt_scores:
            return False
        tokens = active.prefix_ids_of(active.tokens[:-1])
        pending = self._prefixes.read(tokens, active.request.prefix_namespace)
        if pending is None:
            return False
        self._readings[active] = _Reading(pending, self._clock())
        pending.future.add_done_callback(lambda _: self._on_read())
        return True

    def ready(self) -> list[ActiveSequence]:
        """Those whose prefix is in the cache now, or will not come; they wait no longer."""
        now_s = self._clock()
        ended = [
            active
            for active, reading in self._readings.items()
            if reading.pending.future.done() or now_s - reading.started_s > _MAX_READ_S
        ]
        for active in ended:
            self._use(self._readings.pop(active).pending)
        return ended

    def remove(self, active: ActiveSequence) -> None:
        self._readings.pop(active, None)

    def _use(self, pending: PendingRead) -> None:
        future = pending.future
        if future.done() and not future.cancelled() and future.exception() is None:
            row = future.result()
            if row is not None:
                pending.use(row)
