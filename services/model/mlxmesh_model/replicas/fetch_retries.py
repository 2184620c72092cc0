"""When replicas whose files could not be brought to their host are started again."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from mlxmesh_model.catalogue.models import FETCH_RETRY_S, Phase, Replica

FIRST_RETRY_S = 5.0


@dataclass(slots=True)
class _Retries:
    """Of one replica."""

    delay_s: float
    due_s: float | None = None
    """None while it is being started again."""


class FetchRetries:
    """Starts them again with growing delays: the source, or room on the disk, may be back.

    A new process begins with the first delay again, which is right if it is the source.
    """

    def __init__(
        self, *, first_s: float = FIRST_RETRY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._first_s = first_s
        self._clock = clock
        self._retries: dict[str, _Retries] = {}

    def apply(self, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
        """The replicas, with those that are due marked as pending."""
        return tuple(self._apply(replica) for replica in replicas)

    def retain(self, engine_ids: Collection[str]) -> None:
        """Forgets all other replicas."""
        self._retries = {key: each for key, each in self._retries.items() if key in engine_ids}

    def _apply(self, replica: Replica) -> Replica:
        if replica.phase is Phase.READY:
            self._retries.pop(replica.engine_id, None)
        if not replica.awaits_files:
            return replica
        retries = self._retries.setdefault(replica.engine_id, _Retries(self._first_s))
        now_s = self._clock()
        if retries.due_s is None:
            retries.due_s = now_s + retries.delay_s
        if now_s < retries.due_s:
            return replica
        retries.delay_s, retries.due_s = min(2 * retries.delay_s, FETCH_RETRY_S), None
        return replace(replica, phase=Phase.PENDING, failure=None)
