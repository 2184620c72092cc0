"""How many replicas a version should have by how long sequences wait. Pure but for its memory."""

from collections.abc import Collection
from dataclasses import dataclass

from mlxmesh_model.replicas.usage import Usage


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """When queues add and remove replicas."""

    grow_wait_ms: int = 1000
    """A replica is added while a sequence waits for this long ..."""
    grow_after_s: float = 3.0
    """... in every observation for so long."""
    shrink_after_s: float = 60.0
    """A replica is removed after the others could have run everything for so long."""
    max_fill: float = 0.5
    """The part of the sequences that overloaded replicas ran which the others may get."""


@dataclass(slots=True)
class _Track:
    """What is remembered of a version."""

    queued_since_s: float | None = None
    calm_since_s: float | None = None
    capacity: float = 1.0
    """Sequences that one replica ran when the last one was added; 1 until then."""


class Scaling:
    """Adds a replica while sequences wait, and removes one after a calm time."""

    def __init__(self, rules: ScalingRules | None = None) -> None:
        self._rules = rules or ScalingRules()
        self._tracks: dict[str, _Track] = {}

    def retain(self, labels: Collection[str]) -> None:
        """Forgets all other versions."""
        self._tracks = {label: one for label, one in self._tracks.items() if label in labels}

    def replicas(
        self, label: str, usage: Usage, *, desired: int, low: int, high: int, now_s: float
    ) -> int:
        """The number of replicas that a version should have, between `low` and `high`."""
        track = self._tracks.setdefault(label, _Track())
        bounded = min(max(desired, low), high)
        if bounded != desired or usage.ready_engines != desired:
            # Replicas are on their way or leaving; what is seen now says nothing about the next.
            track.queued_since_s = track.calm_since_s = None
            return bounded
        if usage.longest_wait_ms >= self._rules.grow_wait_ms:
            return self._grown(track, usage, desired, high, now_s)
        track.queued_since_s = None
        return self._shrunk(track, usage, desired, low, now_s)

    def _grown(self, track: _Track, usage: Usage, desired: int, high: int, now_s: float) -> int:
        track.calm_since_s = None
        if track.queued_since_s is None:
            track.queued_since_s = now_s
        if now_s - track.queued_since_s < self._rules.grow_after_s or desired >= high:
            return desired
        track.queued_since_s = None
        track.capacity = max(1.0, usage.running / desired)
        return desired + 1

    def _shrunk(self, track: _Track, usage: Usage, desired: int, low: int, now_s: float) -> int:
        room = track.capacity * (desired - 1) * self._rules.max_fill
        calm = not usage.waiting and usage.running <= room
        if not calm or desired <= low:
            track.calm_since_s = None
            return desired
        if track.calm_since_s is None:
            track.calm_since_s = now_s
        if now_s - track.calm_since_s < self._rules.shrink_after_s:
            return desired
        track.calm_since_s = None
        return desired - 1
