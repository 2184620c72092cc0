"""The room on each runtime, from the catalogue and what the runtimes report. Pure."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace

from mlxmesh_model.catalogue.models import Phase, Version
from mlxmesh_model.replicas.eviction import Resident, Space
from mlxmesh_model.replicas.placement import UNLIMITED, Engine, Reserved, Runtime
from mlxmesh_model.replicas.usage import Usage, engine_bytes

IsEvictable = Callable[[Version], bool]
"""Whether the policy of a version's model lets it be unloaded for others."""


def spaces(
    versions: Iterable[Version],
    runtimes: Mapping[str, Runtime],
    usages: Mapping[str, Usage],
    is_evictable: IsEvictable,
    *,
    reserved: Reserved,
    leaving: Collection[str],
    max_engines: int = 0,
    rejected_by: Collection[str] = (),
) -> list[Space]:
    """The room on every runtime that accepts engines.

    `leaving` are the labels of versions that were unloaded in this pass; `max_engines` of a
    runtime, 0 for no limit; `rejected_by` are the runtimes that said that they have no room.
    """
    owners = _owners(versions)
    return [
        _space(
            runtime,
            owners,
            usages,
            is_evictable,
            reserved=reserved,
            leaving=leaving,
            max_engines=max_engines,
            rejected=runtime.runtime_id in rejected_by,
        )
        for runtime in runtimes.values()
        if runtime.accepts_engines
    ]


def _owners(versions: Iterable[Version]) -> dict[str, tuple[Version, Phase]]:
    """By engine id: its version, and the stored phase of its replica."""
    return {
        replica.engine_id: (version, replica.phase)
        for version in versions
        for replica in version.replicas
    }


def _space(
    runtime: Runtime,
    owners: Mapping[str, tuple[Version, Phase]],
    usages: Mapping[str, Usage],
    is_evictable: IsEvictable,
    *,
    reserved: Reserved,
    leaving: Collection[str],
    max_engines: int,
    rejected: bool,
) -> Space:
    staying: defaultdict[str, list[Resident]] = defaultdict(list)
    freed_bytes = freed_engines = 0
    for engine, version, phase in _engines(runtime, owners):
        stays = version is not None and version.desired_replicas and version.label not in leaving
        if version is not None and stays and phase is not Phase.STOPPING:
            resident = _resident(version, engine, usages, is_evictable)
            staying[version.label].append(resident)
        else:
            freed_bytes += engine_bytes(version, engine)
            freed_engines += 1
    runtime_id = runtime.runtime_id
    present = len(runtime.engines or ()) + reserved.engines_on[runtime_id]
    return Space(
        runtime_id,
        [_joined(parts) for parts in staying.values()],
        # Below 0 where more was promised than is free yet.
        free_bytes=runtime.memory_available_bytes - reserved.bytes_on[runtime_id],
        freed_soon_bytes=freed_bytes,
        free_engines=max_engines - present if max_engines else UNLIMITED,
        freed_soon_engines=freed_engines,
        promised_bytes=reserved.bytes_on[runtime_id],
        promised_engines=reserved.engines_on[runtime_id],
        rejected=rejected,
    )


def _engines(
    runtime: Runtime, owners: Mapping[str, tuple[Version, Phase]]
) -> Iterator[tuple[Engine, Version | None, Phase]]:
    """Every engine of a runtime; one without a version is about to be stopped."""
    for engine in (runtime.engines or {}).values():
        version, phase = owners.get(engine.engine_id, (None, Phase.STOPPING))
        yield engine, version, phase


def _resident(
    version: Version, engine: Engine, usages: Mapping[str, Usage], is_evictable: IsEvictable
) -> Resident:
    usage = usages.get(version.label)
    known = usage or Usage()
    return Resident(
        version.label,
        engine_bytes(version, engine),
        idle_s=known.idle_s,
        busy=known.busy,
        ready_s=known.ready_s,
        served=known.served,
        starting=usage is None,
        evictable=is_evictable(version),
    )


def _joined(parts: list[Resident]) -> Resident:
    """Several engines of one version as one."""
    memory_bytes = sum(part.memory_bytes for part in parts)
    return replace(parts[0], memory_bytes=memory_bytes, engines=len(parts))
