"""Which replica takes the next generation. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from mlxmesh_shared.errors import NoReplica, QueueFull

# What a full engine's own refusal would say is not known here; a second is about one short answer.
RETRY_DELAY_S = 1.0


@dataclass(frozen=True)
class Replica:
    """One engine as seen from here.

    `outstanding` counts the sequences that run or wait on it, `capacity` how many may (None while
    the engine has not told).
    """

    engine_id: str
    connected: bool
    outstanding: int
    capacity: int | None = None

    @property
    def full(self) -> bool:
        return self.capacity is not None and self.outstanding >= self.capacity


def pick(replicas: Iterable[Replica], *, avoid: Collection[str] = ()) -> str:
    """The connected replica with the least outstanding work; of equals, the first by id.

    Raises: NoReplica when none is connected, QueueFull when all that are have a full queue.
    """
    candidates = [r for r in replicas if r.connected and r.engine_id not in avoid]
    if not candidates:
        raise NoReplica(
            "no replica of this model is ready just now; try again shortly",
            retry_delay_s=RETRY_DELAY_S,
        )
    free = [replica for replica in candidates if not replica.full]
    if not free:
        raise QueueFull(
            f"the queues of all {len(candidates)} replicas are full; try again later",
            retry_delay_s=RETRY_DELAY_S,
        )
    return min(free, key=lambda replica: (replica.outstanding, replica.engine_id)).engine_id
