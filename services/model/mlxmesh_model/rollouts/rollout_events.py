"""Builds and publishes the events of rollouts. Pure but for the publisher it is given."""

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_model.rollouts.machine import Action
from mlxmesh_model.rollouts.rollout import Change, Rollout
from mlxmesh_shared.events import Publish

_EVENTS = {
    None: events.RolloutStarted,
    Action.BEGIN: events.RolloutStepped,
    Action.ADVANCE: events.RolloutStepped,
    Action.PAUSE: events.RolloutPaused,
    Action.RESUME: events.RolloutResumed,
    Action.PROMOTE: events.RolloutPromoted,
    Action.ROLL_BACK: events.RolloutRolledBack,
    Action.ABORT: events.RolloutAborted,
}


def publish_rollout(
    publish: Publish, rollout: Rollout, change: Change, action: Action | None
) -> None:
    """Publishes the event of a change; without an action, of the start."""
    event = _EVENTS[action](
        rollout_id=rollout.rollout_id,
        model=rollout.wish.model,
        alias=rollout.wish.alias,
        from_version=rollout.from_version,
        to_version=rollout.wish.to_version,
        weight=change.weight,
        reason=change.reason,
        principal=change.principal,
    )
    publish(event, rollout.rollout_id)
