"""How much each loaded version is used, by what the runtimes report. Pure but for its memory."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from mlxmesh_model.catalogue.models import Phase, Version
from mlxmesh_model.replicas.placement import OVERHEAD_BYTES, Engine, Runtime

# Runtimes report whole milliseconds, some time after they were measured.
_SLACK_S = 0.3
_LEAD_S = 1.0


@dataclass(frozen=True, slots=True)
class Usage:
    """The use of one version by the sequences of all its ready engines."""

    running: int = 0
    waiting: int = 0
    background: int = 0
    """Background sequences, for which no replica is added."""
    longest_wait_ms: int = 0
    idle_s: float = 0.0
    """How long none of its engines has had a sequence; 0 while one has."""
    ready_s: float = 0.0
    """How long ago one of its engines was first seen ready."""
    ready_engines: int = 0
    served: bool = False
    """Whether it has had a sequence since it was seen ready."""

    @property
    def busy(self) -> bool:
        """Whether it has a sequence."""
        return self.running + self.waiting + self.background > 0


@dataclass(slots=True)
class _Seen:
    """A ready engine: when it was first seen, and whether it has had a sequence since."""

    since_s: float
    served: bool = False


class UsageTracker:
    """Remembers since when engines are ready, which no runtime reports."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        # By label: when a caller last used a version.
        self._used_s: dict[str, float] = {}

    def note_use(self, label: str, at_s: float) -> None:
        """Notes what a caller knows sooner than the runtimes."""
        self._used_s[label] = max(at_s, self._used_s.get(label, at_s))

    def observe(
        self, versions: Iterable[Version], runtimes: Mapping[str, Runtime], now_s: float
    ) -> Mapping[str, Usage]:
        """The use of each version with a ready engine, by its label."""
        ready = {version.label: list(ready_engines(version, runtimes)) for version in versions}
        known = {engine.engine_id for engines in ready.values() for engine in engines}
        self._seen = {key: seen for key, seen in self._seen.items() if key in known}
        self._used_s = {label: at_s for label, at_s in self._used_s.items() if label in ready}
        return {
            label: self._usage(engines, now_s, self._used_s.get(label))
            for label, engines in ready.items()
            if engines
        }

    def _usage(self, engines: list[Engine], now_s: float, used_s: float | None) -> Usage:
        seen = [self._note(engine, now_s, used_s) for engine in engines]
        idle_s = min(engine.idle_ms for engine in engines) / 1000
        if used_s is not None:
            idle_s = min(idle_s, max(0.0, now_s - used_s))
        busy = any(engine.busy for engine in engines)
        return Usage(
            running=sum(engine.running_sequences for engine in engines),
            waiting=sum(engine.waiting_sequences for engine in engines),
            background=sum(engine.background_sequences for engine in engines),
            longest_wait_ms=max(engine.longest_wait_ms for engine in engines),
            idle_s=0.0 if busy else idle_s,
            ready_s=max(now_s - one.since_s for one in seen),
            ready_engines=len(engines),
            served=any(one.served for one in seen),
        )

    def _note(self, engine: Engine, now_s: float, used_s: float | None) -> _Seen:
        seen = self._seen.setdefault(engine.engine_id, _Seen(now_s))
        idle_since_s = now_s - engine.idle_ms / 1000
        if engine.busy or idle_since_s > seen.since_s + _SLACK_S:
            seen.served = True
        # A caller may find an engine before it was seen here.
        if used_s is not None and used_s > seen.since_s - _LEAD_S:
            seen.served = True
        return seen


def ready_engines(version: Version, runtimes: Mapping[str, Runtime]) -> Iterator[Engine]:
    """The ready engines of a version that are not being stopped."""
    for replica in version.replicas:
        runtime = runtimes.get(replica.runtime_id)
        engine = (runtime.engines or {}).get(replica.engine_id) if runtime is not None else None
        serves = engine is not None and engine.phase is Phase.READY
        if engine is not None and serves and replica.phase is not Phase.STOPPING:
            yield engine


def engine_bytes(version: Version | None, engine: Engine) -> int:
    """The memory that an engine of a version holds, or will need; None for an unknown version."""
    return engine.memory_bytes or (needed_bytes(version) if version is not None else 0)


def needed_bytes(version: Version) -> int:
    """The memory that one more engine of a version needs; rank 0, if a group computes it."""
    weights_bytes = version.artifact.weights_bytes if version.artifact else 0
    return OVERHEAD_BYTES + weights_bytes // (version.settings.group_size or 1)
