"""Builds what moves rollouts."""

from dataclasses import dataclass
from functools import partial

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.rollouts.controller import Clock, RolloutController, utc_now
from mlxmesh_model.rollouts.counting import RolloutCounter
from mlxmesh_model.rollouts.machine import Action
from mlxmesh_model.rollouts.release import InUse
from mlxmesh_model.rollouts.rollout import Change, Rollout
from mlxmesh_model.rollouts.rollout_events import publish_rollout
from mlxmesh_model.rollouts.servicer import RolloutServicer
from mlxmesh_model.rollouts.store import RolloutStore
from mlxmesh_model.rollouts.telemetry import RolloutTelemetry
from mlxmesh_shared.events import Publish
from mlxmesh_shared.telemetry.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """The parts of rollouts in a model service."""

    store: RolloutStore
    controller: RolloutController
    """Runs in the leader."""
    counter: RolloutCounter
    """A consumer of outcomes."""
    servicer: RolloutServicer


def make_rollouts(
    catalogue: Store,
    publish: Publish,
    metrics: Metrics | None = None,
    *,
    in_use: InUse,
    clock: Clock = utc_now,
) -> Rollouts:
    """Everything about rollouts on one catalogue."""
    telemetry = RolloutTelemetry(metrics)
    announce = partial(publish_rollout, publish)

    def changed(rollout: Rollout, change: Change, action: Action | None) -> None:
        announce(rollout, change, action)
        telemetry.changed(rollout, change, action)

    store = RolloutStore(catalogue, changed)
    controller = RolloutController(store, clock=clock, in_use=in_use, telemetry=telemetry)
    return Rollouts(
        store=store,
        controller=controller,
        counter=RolloutCounter(controller.wake),
        servicer=RolloutServicer(store, wake=controller.wake, clock=clock),
    )
