"""Decides what one pass of the reconciler does with a version's replicas. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from mlxmesh_model.catalogue.models import Phase, Replica, Version
from mlxmesh_model.replicas.placement import Runtime

# The order in which surplus replicas are stopped: the least useful first.
_STOP_ORDER = [Phase.FAILED, Phase.PENDING, Phase.STARTING, Phase.READY]


def observe(version: Version, runtimes: Mapping[str, Runtime]) -> tuple[Replica, ...]:
    """The version's replicas as the runtimes report them, without those that are gone."""
    seen = (_observe(replica, runtimes.get(replica.runtime_id)) for replica in version.replicas)
    return tuple(replica for replica in seen if replica is not None)


def _observe(replica: Replica, runtime: Runtime | None) -> Replica | None:
    if runtime is None:
        return None  # the runtime is gone, or was absent for too long, and its engines with it
    if runtime.engines is None:
        return replica  # the runtime does not respond, or is briefly absent from the registry
    engine = runtime.engines.get(replica.engine_id)
    stopping = replica.phase is Phase.STOPPING
    if engine is None:
        # A runtime that restarted without its engines is asked again.
        return None if stopping else replace(replica, phase=Phase.PENDING, failure=None)
    retried = replica.phase is Phase.PENDING and engine.phase is Phase.FAILED
    if stopping or retried:
        return replica
    return replace(replica, phase=engine.phase, failure=engine.failure)


def trim(
    replicas: tuple[Replica, ...],
    *,
    desired: int,
    draining: Collection[str] = (),
    settings_id: str = "",
) -> tuple[Replica, ...]:
    """The replicas, with surplus ones marked as stopping.

    Replicas on `draining` runtimes and those with other settings are surplus once replacements are
    ready; the latter at once if they do not serve.
    """
    staying = [each for each in replicas if not _moves(each, draining, settings_id)]
    moving = [each for each in replicas if _moves(each, draining, settings_id)]
    ready = sum(replica.phase is Phase.READY for replica in staying)
    useless = {
        each.engine_id
        for each in moving
        if each.settings_id != settings_id and each.phase is not Phase.READY
    }
    surplus = _surplus(staying, desired) | _surplus(moving, max(0, desired - ready)) | useless
    return tuple(
        replace(replica, phase=Phase.STOPPING) if replica.engine_id in surplus else replica
        for replica in replicas
    )


def _moves(replica: Replica, draining: Collection[str], settings_id: str) -> bool:
    """Whether a replica has to be replaced."""
    return replica.runtime_id in draining or replica.settings_id != settings_id


def _surplus(replicas: Iterable[Replica], wanted: int) -> set[str]:
    """The engines to stop so that `wanted` remain."""
    active = [replica for replica in replicas if replica.phase is not Phase.STOPPING]
    active.sort(key=lambda replica: (_STOP_ORDER.index(replica.phase), replica.engine_id))
    return {replica.engine_id for replica in active[: max(0, len(active) - wanted)]}


def missing(
    replicas: Sequence[Replica],
    *,
    desired: int,
    draining: Collection[str] = (),
    settings_id: str = "",
) -> int:
    """How many replicas to place; those on `draining` runtimes do not count.

    Replicas with other settings are replaced one after another, so that memory for one more is
    enough: the next one is placed once the last one is ready and its predecessor has stopped.
    """
    active = [each for each in replicas if each.phase is not Phase.STOPPING]
    staying = [each for each in active if not _moves(each, draining, settings_id)]
    wanted = max(0, desired - len(staying))
    outdated = sum(each.settings_id != settings_id for each in active)
    if outdated == 0:
        return wanted
    stopping = any(
        each.phase is Phase.STOPPING and each.settings_id != settings_id for each in replicas
    )
    replacing = stopping or any(each.phase is not Phase.READY for each in staying)
    added = max(0, wanted - outdated)
    return min(wanted, added if replacing else added + 1)


def make_room(replicas: tuple[Replica, ...], *, settings_id: str) -> tuple[Replica, ...] | None:
    """The replicas with one with other settings marked as stopping, so that its replacement finds
    memory; None if there is none, or one of them stops already.
    """
    outdated = sorted(
        (each for each in replicas if each.settings_id != settings_id),
        key=lambda each: each.engine_id,
    )
    if not outdated or any(each.phase is Phase.STOPPING for each in outdated):
        return None
    first = outdated[0].engine_id
    return tuple(
        replace(each, phase=Phase.STOPPING) if each.engine_id == first else each
        for each in replicas
    )


def settled(versions: Iterable[Version], runtimes: Collection[Runtime]) -> bool:
    """Whether every runtime responds and runs what is desired, so that no pass is due."""
    known = {runtime.runtime_id: runtime for runtime in runtimes}
    return all(runtime.accepts_engines for runtime in runtimes) and all(
        len(version.replicas) == version.desired_replicas
        and all(replica.phase is Phase.READY for replica in version.replicas)
        and version.current_replicas == version.replicas
        and observe(version, known) == version.replicas
        for version in versions
    )


def orphans(versions: Iterable[Version], runtimes: Iterable[Runtime]) -> list[tuple[str, str]]:
    """The runtime and id of each engine that belongs to no version; it has to be stopped."""
    known = {replica.engine_id for version in versions for replica in version.replicas}
    return [
        (runtime.runtime_id, engine_id)
        for runtime in runtimes
        for engine_id in runtime.engines or ()
        if engine_id not in known
    ]
