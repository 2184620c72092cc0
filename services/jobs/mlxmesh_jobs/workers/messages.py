"""What workers and this service tell each other, as domain objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlxmesh_jobs.domain.jobs import AttemptId, Claim, Kind, Update


@dataclass(frozen=True, kw_only=True)
class BackEnd:
    """A back end, as a worker sees it; as in the contract."""

    connector: str
    name: str
    address: str
    healthy: bool
    reason: str
    operations: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Hello:
    """Who a worker is, as in the contract."""

    worker_id: str
    session: str
    host: str
    slots: int
    kinds: frozenset[Kind]
    connectors: Mapping[str, Sequence[str]]
    """The operations of each, the default one first."""
    queues: frozenset[str]
    running: frozenset[AttemptId]


@dataclass(frozen=True, kw_only=True)
class Report:
    """A message of a worker."""

    number: int
    free_slots: int
    assignments: int
    """How many it has received on this stream."""
    updates: Sequence[Update] = ()
    back_ends: Sequence[BackEnd] = ()
    leaving: bool = False
    busy_connectors: frozenset[str] = frozenset()
    connector_slots: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(kw_only=True)
class Orders:
    """A message to a worker."""

    assignments: list[Claim] = field(default_factory=list[Claim])
    cancellations: list[AttemptId] = field(default_factory=list[AttemptId])
    fenced: list[AttemptId] = field(default_factory=list[AttemptId])
    confirmed: int = 0

    def __bool__(self) -> bool:
        return bool(self.assignments or self.cancellations or self.fenced or self.confirmed)


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """What is shown of a worker."""

    worker_id: str
    host: str = ""
    slots: int = 0
    running: int = 0
    kinds: frozenset[Kind] = frozenset()
    connectors: Mapping[str, Sequence[str]] = field(default_factory=dict[str, Sequence[str]])
    queues: frozenset[str] = frozenset()
    back_ends: Sequence[BackEnd] = ()

    def takes(self, queue: str) -> bool:
        """Whether it takes jobs of a queue, as far as its name tells what they need."""
        if self.queues and queue not in self.queues:
            return False
        if queue in self.connectors:
            return True
        needed = next((kind for kind in Kind if kind.name.lower() == queue), None)
        return needed is None or needed in self.kinds
