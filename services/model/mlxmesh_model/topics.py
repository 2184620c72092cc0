"""The topics of the model service beside its catalogue: each a gRPC service, and its work."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlxmesh.model.v1.adapter_pb2_grpc import add_AdapterServiceServicer_to_server
from mlxmesh.model.v1.artifact_pb2_grpc import add_ArtifactServiceServicer_to_server
from mlxmesh.model.v1.ensemble_pb2_grpc import add_EnsembleServiceServicer_to_server
from mlxmesh.model.v1.experiment_pb2_grpc import add_ExperimentServiceServicer_to_server
from mlxmesh.model.v1.history_pb2_grpc import add_HistoryServiceServicer_to_server
from mlxmesh.model.v1.hub_pb2_grpc import add_HubServiceServicer_to_server
from mlxmesh.model.v1.profile_pb2_grpc import add_ProfileServiceServicer_to_server
from mlxmesh.model.v1.rollout_pb2_grpc import add_RolloutServiceServicer_to_server
from mlxmesh.model.v1.shadow_pb2_grpc import add_ShadowServiceServicer_to_server
from mlxmesh_model.adapters.servicer import AdapterServicer
from mlxmesh_model.artifacts.servicer import ArtifactServicer
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.ensembles.servicer import EnsembleServicer
from mlxmesh_model.ensembles.store import Ensembles
from mlxmesh_model.experiments.controller import ExperimentController
from mlxmesh_model.experiments.convert import to_event
from mlxmesh_model.experiments.experiment import Experiment
from mlxmesh_model.experiments.recording import Recording
from mlxmesh_model.experiments.servicer import ExperimentServicer
from mlxmesh_model.experiments.store import Experiments
from mlxmesh_model.history import history
from mlxmesh_model.history.history import History
from mlxmesh_model.history.maintenance import HistoryMaintenance
from mlxmesh_model.history.servicer import HistoryServicer
from mlxmesh_model.hub.assembly import HubParts
from mlxmesh_model.outcomes.recorder import Consumer, Recorder
from mlxmesh_model.profiles.servicer import ProfileServicer
from mlxmesh_model.profiles.store import Profiles
from mlxmesh_model.rollouts.assembly import make_rollouts
from mlxmesh_model.rollouts.release import InUse
from mlxmesh_model.shadows.convert import to_event as shadow_event
from mlxmesh_model.shadows.servicer import ShadowServicer
from mlxmesh_model.shadows.shadow import Run
from mlxmesh_model.shadows.store import Shadows
from mlxmesh_model.shadows.tally import Tally
from mlxmesh_shared.events import Publish
from mlxmesh_shared.settings import ModelSettings
from mlxmesh_shared.telemetry.metrics import Metrics

Work = Callable[[], Coroutine[Any, Any, None]]
"""Runs until it is cancelled."""
Follow = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
"""Runs until it is cancelled; the event is set while there are other model services."""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """A gRPC service of the package mlxmesh.model.v1, and what belongs to it."""

    service: str
    """The service's name within the package."""
    add: Callable[[Any, Any], None]
    """Adds the servicer to a server."""
    servicer: Any
    consumers: tuple[Consumer, ...] = ()
    """Count outcomes."""
    work_of_leader: tuple[Work, ...] = ()
    """Runs in one model service at a time."""
    work: tuple[Follow, ...] = ()
    """Runs in every model service."""


@dataclass(frozen=True, kw_only=True)
class TopicParts:
    """What topics are built from."""

    store: Store
    settings: ModelSettings
    publish: Publish
    metrics: Metrics
    wake_reconciler: Callable[[], None]
    artifacts: ArtifactServicer
    adapters: AdapterServicer
    hub: HubParts
    in_use: InUse
    """Whether a version has sequences, as the reconciler saw it last."""


def make_topics(parts: TopicParts) -> tuple[Topic, ...]:
    """Every topic; history records the outcomes that the others count."""
    others = tuple(_topics_that_count(parts))
    consumers = [history.count, *(each for topic in others for each in topic.consumers)]
    return (_history(parts, Recorder(parts.store, consumers)), *others)


def _topics_that_count(parts: TopicParts) -> Iterator[Topic]:
    rollouts = make_rollouts(parts.store, parts.publish, parts.metrics, in_use=parts.in_use)
    yield Topic(
        service="RolloutService",
        add=add_RolloutServiceServicer_to_server,
        servicer=rollouts.servicer,
        consumers=(rollouts.counter,),
        work_of_leader=(rollouts.controller.run,),
    )
    yield Topic(
        service="ProfileService",
        add=add_ProfileServiceServicer_to_server,
        servicer=ProfileServicer(Profiles(parts.store.transactions)),
    )
    yield _experiments(parts)
    yield Topic(
        service="ArtifactService",
        add=add_ArtifactServiceServicer_to_server,
        servicer=parts.artifacts,
    )
    yield Topic(
        service="AdapterService",
        add=add_AdapterServiceServicer_to_server,
        servicer=parts.adapters,
    )
    yield Topic(
        service="HubService",
        add=add_HubServiceServicer_to_server,
        servicer=parts.hub.servicer,
        work_of_leader=(parts.hub.runner.run,),
        work=(parts.hub.downloads.follow,),
    )
    yield Topic(
        service="EnsembleService",
        add=add_EnsembleServiceServicer_to_server,
        servicer=EnsembleServicer(Ensembles(parts.store)),
    )
    yield Topic(
        service="ShadowService",
        add=add_ShadowServiceServicer_to_server,
        servicer=ShadowServicer(
            Shadows(parts.store, on_change=partial(_publish_shadow, parts.publish))
        ),
    )


def _history(parts: TopicParts, recorder: Recorder) -> Topic:
    maintenance = HistoryMaintenance(
        parts.store,
        hourly_days=parts.settings.hourly_history_days,
        daily_days=parts.settings.daily_history_days,
    )
    return Topic(
        service="HistoryService",
        add=add_HistoryServiceServicer_to_server,
        servicer=HistoryServicer(recorder, History(parts.store)),
        work_of_leader=(maintenance.run,),
    )


def _experiments(parts: TopicParts) -> Topic:
    experiments = Experiments(
        parts.store,
        wake_reconciler=parts.wake_reconciler,
        on_change=partial(_publish_experiment, parts.publish),
    )
    recording = Recording(parts.store)
    return Topic(
        service="ExperimentService",
        add=add_ExperimentServiceServicer_to_server,
        servicer=ExperimentServicer(experiments, recording),
        consumers=(recording.consume,),
        work_of_leader=(ExperimentController(parts.store, experiments).run,),
    )


def _publish_experiment(publish: Publish, before: Experiment | None, after: Experiment) -> None:
    event = to_event(before, after)
    if event is not None:
        publish(event, after.experiment_id)


def _publish_shadow(publish: Publish, run: Run, tally: Tally) -> None:
    publish(shadow_event(run, tally), run.shadow_id)
