"""How a rollout moves: its transitions, and the next decision from what is observed. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mlxmesh_model.catalogue.lifecycle import State as VersionState
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.rollouts.guards import Counts, read
from mlxmesh_model.rollouts.rollout import ENDED, Change, Reading, Rollout, State
from mlxmesh_shared.errors import IllegalState


class Action(StrEnum):
    """What happens to a rollout; the values are part of messages."""

    BEGIN = "begin the first step of"
    ADVANCE = "advance"
    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"
    ROLL_BACK = "roll back"
    ABORT = "abort"


TRANSITIONS: dict[tuple[State, Action], State] = {
    (State.PREPARING, Action.BEGIN): State.PROGRESSING,
    (State.PREPARING, Action.PROMOTE): State.PROMOTED,
    (State.PREPARING, Action.ROLL_BACK): State.ROLLED_BACK,
    (State.PREPARING, Action.ABORT): State.ABORTED,
    (State.PROGRESSING, Action.ADVANCE): State.PROGRESSING,
    (State.PROGRESSING, Action.PAUSE): State.PAUSED,
    (State.PROGRESSING, Action.PROMOTE): State.PROMOTED,
    (State.PROGRESSING, Action.ROLL_BACK): State.ROLLED_BACK,
    (State.PROGRESSING, Action.ABORT): State.ABORTED,
    (State.PAUSED, Action.RESUME): State.PROGRESSING,
    (State.PAUSED, Action.PROMOTE): State.PROMOTED,
    (State.PAUSED, Action.ROLL_BACK): State.ROLLED_BACK,
    (State.PAUSED, Action.ABORT): State.ABORTED,
}

ASKED = {
    Action.PAUSE: "paused",
    Action.RESUME: "resumed",
    Action.PROMOTE: "promoted",
    Action.ABORT: "aborted",
}
"""What a caller may ask for, as its history says it."""

REPEATED = frozenset(
    {
        (State.PAUSED, Action.PAUSE),
        (State.PROGRESSING, Action.RESUME),
        (State.PROMOTED, Action.PROMOTE),
        (State.ABORTED, Action.ABORT),
    }
)
"""What is already so; asking for it again changes nothing."""

_REMEDY: dict[tuple[State, Action], str] = {
    (State.PREPARING, Action.PAUSE): "its new version gets no traffic yet; abort it instead",
    (State.PREPARING, Action.RESUME): "it is not paused",
}
_BEGINS_STEP = frozenset({Action.BEGIN, Action.ADVANCE, Action.RESUME})


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with a rollout, and why."""

    action: Action
    reason: str
    readings: tuple[Reading, ...] = ()


@dataclass(frozen=True, slots=True)
class Observed:
    """What a decision depends on; `version` is the new one, None once it was deleted."""

    version: Version | None
    new: Counts
    present: Counts


def next_state(rollout: Rollout, action: Action) -> State:
    """The state after an action.

    Raises: IllegalState, which names the rollout, its state and the remedy.
    """
    target = TRANSITIONS.get((rollout.state, action))
    if target is None:
        ended = rollout.state in ENDED
        remedy = _REMEDY.get((rollout.state, action), "it has ended" if ended else "wait")
        state = rollout.state.upper()
        raise IllegalState(f"cannot {action} {rollout.label}: it is {state}; {remedy}")
    return target


def move(
    rollout: Rollout, decision: Decision, *, now: datetime, principal: str = ""
) -> tuple[Rollout, Change]:
    """The rollout after a decision, and the change for its history. Raises: IllegalState."""
    action, revision = decision.action, rollout.revision + 1
    moved = replace(rollout, state=next_state(rollout, action), revision=revision)
    if action is Action.ADVANCE:
        moved = replace(moved, step=rollout.step + 1)
    if action in _BEGINS_STEP:
        moved = replace(moved, step_at=now, window=revision)
    if moved.state in ENDED:
        moved = replace(moved, ended_at=now)
    return moved, change_of(moved, decision.reason, now, decision.readings, principal)


def change_of(
    rollout: Rollout,
    reason: str,
    now: datetime,
    readings: tuple[Reading, ...] = (),
    principal: str = "",
) -> Change:
    """The entry of the history for the present state."""
    return Change(now, rollout.state, rollout.step, rollout.weight, reason, readings, principal)


def readings_of(rollout: Rollout, observed: Observed) -> tuple[Reading, ...]:
    """What the guards read in the present step."""
    return tuple(read(guard, observed.new, observed.present) for guard in rollout.wish.guards)


def decide(rollout: Rollout, observed: Observed, now: datetime) -> Decision | None:
    """The next decision; None while there is nothing to do."""
    if rollout.state in ENDED:
        return None
    lost = _lost(rollout, observed.version)
    if lost:
        return Decision(Action.ROLL_BACK, lost)
    if rollout.state is State.PREPARING:
        return _begin(rollout, observed.version)
    readings = readings_of(rollout, observed)
    certain = _broken(readings, certain=True)
    if certain:
        return Decision(Action.ROLL_BACK, f"{certain} for certain", readings)
    is_over = now >= rollout.hold_ends_at and observed.new.requests >= rollout.wish.min_requests
    if rollout.state is State.PAUSED or not is_over:
        return None
    return _judge(rollout, observed.version, readings)


def _count(replicas: int) -> str:
    return f"{replicas} replica{'' if replicas == 1 else 's'}"


def _begin(rollout: Rollout, version: Version | None) -> Decision | None:
    if version is None or version.ready_replicas < max(1, version.desired_replicas):
        return None
    return Decision(Action.BEGIN, f"{version.label} is ready ({_count(version.ready_replicas)})")


def _step(rollout: Rollout) -> str:
    return f"the step of {rollout.wish.steps[rollout.step]}%"


def _judge(
    rollout: Rollout, version: Version | None, readings: tuple[Reading, ...]
) -> Decision | None:
    """At the end of a step."""
    broken = _broken(readings)
    if broken:
        return Decision(Action.ROLL_BACK, f"{broken} at the end of {_step(rollout)}", readings)
    if rollout.step + 1 < len(rollout.wish.steps):
        return Decision(Action.ADVANCE, f"every guard was kept in {_step(rollout)}", readings)
    if version is None or not version.ready_replicas:
        return None
    return Decision(Action.PROMOTE, f"every guard was kept in {_step(rollout)}", readings)


def _lost(rollout: Rollout, version: Version | None) -> str:
    """Why the new version cannot answer, and will not soon; empty if it can."""
    if version is None:
        return f"{rollout.wish.model}@{rollout.wish.to_version} was deleted"
    if version.desired_replicas == 0:
        return f"{version.label} was unloaded"
    if version.state is VersionState.LOAD_FAILED or (
        rollout.state is State.PREPARING and version.failure is not None
    ):
        cause = version.failure.message if version.failure is not None else "unknown cause"
        return f"{version.label} could not be loaded: {cause}"
    return ""


def _broken(readings: Sequence[Reading], *, certain: bool = False) -> str:
    """The guards that are broken, with what they read; empty if none is."""
    broken = [each for each in readings if not each.kept and (each.certain or not certain)]
    return "; ".join(f"{each.guard} is broken: {_said(each)}" for each in broken)


def _said(reading: Reading) -> str:
    read, of = reading.guard.text_of, reading.baseline
    baseline = "" if of is None else f", the present version has {read(of)}"
    return f"{read(reading.value or 0)}{baseline}"
