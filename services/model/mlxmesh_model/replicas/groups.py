"""Where the ranks of replicas that are groups run, as the reconciler saw it last."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlxmesh_model.catalogue.models import Replica, Version
from mlxmesh_model.replicas.placement import Engine, Runtime


@dataclass(frozen=True, slots=True)
class PlacedRank:
    """A rank, its runtime, and the host at which the mesh reaches that; empty if unknown."""

    rank: int
    runtime_id: str
    host: str
    round_trip_us: int = 0
    """From rank 0's runtime, when it was placed; 0 if unknown."""


@dataclass(frozen=True, slots=True)
class Group:
    """A replica that several ranks compute together; all that run, by rank."""

    engine_id: str
    ranks: tuple[PlacedRank, ...]


class Groups:
    """The reconciler records them and the servicer shows them."""

    def __init__(self) -> None:
        self._groups: dict[str, list[Group]] = {}

    def of(self, version: Version) -> tuple[Group, ...]:
        """The groups of a version."""
        return tuple(self._groups.get(version.label, ()))

    def observe(self, versions: Iterable[Version], runtimes: Mapping[str, Runtime]) -> None:
        """Records what all runtimes report."""
        found: dict[str, list[Group]] = {}
        for version in versions:
            for replica in version.replicas:
                runtime = runtimes.get(replica.runtime_id)
                engine = (runtime.engines or {}).get(replica.engine_id) if runtime else None
                if engine is not None and engine.ranks:
                    group = _group(replica, engine, runtimes)
                    found.setdefault(version.label, []).append(group)
        self._groups = found


def _group(replica: Replica, engine: Engine, runtimes: Mapping[str, Runtime]) -> Group:
    places = {0: replica.runtime_id, **engine.ranks}
    hosts = {runtime_id: runtime.host for runtime_id, runtime in runtimes.items()}
    return Group(
        replica.engine_id,
        tuple(
            PlacedRank(
                rank,
                places[rank],
                hosts.get(places[rank], ""),
                engine.round_trips_us.get(rank, 0),
            )
            for rank in sorted(places)
        ),
    )
