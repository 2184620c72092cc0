"""Metrics of rollouts."""

from collections import Counter

from mlxmesh_model.rollouts.machine import Action
from mlxmesh_model.rollouts.rollout import Change, Rollout, State
from mlxmesh_shared.telemetry.instruments import Instrument, Kind
from mlxmesh_shared.telemetry.metrics import Metrics, Reading

STATE = "mlxmesh.rollout.state"

ROLLOUTS = Instrument(
    "mlxmesh.rollout.active",
    Kind.GAUGE,
    "{rollout}",
    "Rollouts that have not ended, by state; only from the model service that leads",
)
CHANGES = Instrument(
    "mlxmesh.rollout.changes",
    Kind.COUNTER,
    "{change}",
    "Changes of rollouts that this process made, by the state that followed",
)
_RUNNING = (State.PREPARING, State.PROGRESSING, State.PAUSED)


class RolloutTelemetry:
    """Counts changes, and the rollouts that the last pass saw."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        metrics = metrics or Metrics()
        self._changes: Counter[State] = Counter()
        self._active: Counter[State] = Counter()
        metrics.observe(CHANGES, self._read_changes)
        metrics.observe(ROLLOUTS, self._read_active)

    def changed(self, rollout: Rollout, change: Change, action: Action | None) -> None:
        """Counts a change."""
        self._changes[change.state] += 1

    def seen(self, rollouts: list[Rollout]) -> None:
        """Sets what there is at present."""
        self._active = Counter(rollout.state for rollout in rollouts)

    def _read_changes(self) -> Reading:
        return [(self._changes[state], {STATE: state.value}) for state in State]

    def _read_active(self) -> Reading:
        return [(self._active[state], {STATE: state.value}) for state in _RUNNING]
