"""What one pass of the reconciler should make of a version's replicas."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from mlxmesh_model.catalogue.models import Phase, Replica, Version
from mlxmesh_model.fleet.placement import Runtime

# Which replica goes first when there are too many: the one that serves least.
_USEFULNESS = [Phase.FAILED, Phase.PENDING, Phase.STARTING, Phase.READY]


def observe(version: Version, runtimes: Mapping[str, Runtime]) -> tuple[Replica, ...]:
    """The version's replicas as the runtimes show them now; what is gone is left out."""
    seen = (_observe(replica, runtimes.get(replica.runtime_id)) for replica in version.replicas)
    return tuple(replica for replica in seen if replica is not None)


def _observe(replica: Replica, runtime: Runtime | None) -> Replica | None:
    if runtime is None:
        return None  # its process is gone, or has been away for too long; its engines with it
    if runtime.engines is None:
        return replica  # it does not answer just now, or has left the registry for a moment
    engine = runtime.engines.get(replica.engine_id)
    stopping = replica.phase is Phase.STOPPING
    if engine is None:
        # A runtime that came back empty is told again.
        return None if stopping else replace(replica, phase=Phase.PENDING, failure=None)
    retried = replica.phase is Phase.PENDING and engine.phase is Phase.FAILED
    if stopping or retried:
        return replica
    return replace(replica, phase=engine.phase, failure=engine.failure)


def trim(
    replicas: tuple[Replica, ...], *, desired: int, leaving: Collection[str] = ()
) -> tuple[Replica, ...]:
    """The replicas with those that are too many marked as stopping.

    Those on `leaving` runtimes are too many as soon as others are ready in their place.
    """
    staying = [replica for replica in replicas if replica.runtime_id not in leaving]
    moving = [replica for replica in replicas if replica.runtime_id in leaving]
    ready = sum(replica.phase is Phase.READY for replica in staying)
    surplus = _surplus(staying, desired) | _surplus(moving, max(0, desired - ready))
    return tuple(
        replace(replica, phase=Phase.STOPPING) if replica.engine_id in surplus else replica
        for replica in replicas
    )


def _surplus(replicas: Iterable[Replica], wanted: int) -> set[str]:
    """The engines to stop, for that many to be left."""
    active = [replica for replica in replicas if replica.phase is not Phase.STOPPING]
    active.sort(key=lambda replica: (_USEFULNESS.index(replica.phase), replica.engine_id))
    return {replica.engine_id for replica in active[: max(0, len(active) - wanted)]}


def missing(replicas: Iterable[Replica], *, desired: int, leaving: Collection[str] = ()) -> int:
    """How many replicas have to be placed; those on `leaving` runtimes do not count."""
    active = sum(
        replica.phase is not Phase.STOPPING and replica.runtime_id not in leaving
        for replica in replicas
    )
    return max(0, desired - active)


def strangers(versions: Iterable[Version], runtimes: Iterable[Runtime]) -> list[tuple[str, str]]:
    """Runtime and id of each engine that no version knows of: nobody will ever stop it."""
    known = {replica.engine_id for version in versions for replica in version.replicas}
    return [
        (runtime.runtime_id, engine_id)
        for runtime in runtimes
        for engine_id in runtime.engines or ()
        if engine_id not in known
    ]
