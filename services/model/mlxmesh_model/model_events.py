"""Builds and publishes the events of models. Pure but for the publisher it is given."""

from collections.abc import Iterator, Mapping

from google.protobuf.message import Message

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_model.catalogue.adapter import Adapter
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import FailureRecord, Model, Version
from mlxmesh_model.replicas.convert import to_failure
from mlxmesh_model.replicas.policy_decisions import Adjustment, Cause
from mlxmesh_shared.events import Publish

# An event has at most 8 KiB.
_MAX_FILES = 16


def publish_change(publish: Publish, before: Model | None, after: Model | None) -> None:
    """Publishes the events of a change of one model, correlated with a version or an alias."""
    old = {version.number: version for version in before.versions} if before else {}
    new = {version.number: version for version in after.versions} if after else {}
    for number, version in new.items():
        event = version_event(old.get(number), version)
        if event is not None:
            publish(event, version.label)
    for number in old.keys() - new.keys():
        publish(events.ModelDeleted(model=old[number].model, version=number), old[number].label)
    for event in _alias_events(before, after):
        publish(event, f"{event.model}:{event.alias}")
    for event in _adapter_events(before, after):
        publish(event, f"{event.model}:{event.adapter}")


def publish_rejection(
    publish: Publish, version: Version, runtime_id: str, cause: FailureRecord
) -> None:
    """Publishes that a runtime rejected a replica of a version."""
    event = events.ModelReplicaRejected(
        model=version.model,
        version=version.number,
        runtime_id=runtime_id,
        failure=to_failure(cause),
    )
    publish(event, version.label)


def publish_adjustment(publish: Publish, change: Adjustment) -> None:
    """Publishes that a policy, a queue or short memory changed the replicas of a version."""
    publish(adjustment_event(change), change.version.label)


def adjustment_event(change: Adjustment) -> Message:
    """The event of an adjustment."""
    model, version = change.version.model, change.version.number
    idle_ms = round(change.usage.idle_s * 1000)
    match change.cause:
        case Cause.EVICTED:
            return events.ModelEvicted(
                model=model,
                version=version,
                for_version=change.for_version,
                idle_ms=idle_ms,
                desired_replicas=change.replicas,
            )
        case Cause.IDLE:
            return events.ModelIdleUnloaded(model=model, version=version, idle_ms=idle_ms)
        case Cause.SCALED:
            return events.ModelScaled(
                model=model,
                version=version,
                from_replicas=change.version.desired_replicas,
                to_replicas=change.replicas,
                longest_wait_ms=change.usage.longest_wait_ms,
            )


def version_event(before: Version | None, after: Version) -> Message | None:
    """The event of a version's change of state; None when there is nothing to report."""
    was = before.state if before is not None else None
    model, version = after.model, after.number
    if after.damaged_files and not (before and before.damaged_files):
        return events.ModelFilesDamaged(
            model=model, version=version, files=after.damaged_files[:_MAX_FILES]
        )
    cause = to_failure(after.failure) if after.failure is not None else None
    if was is after.state:
        known = before.failure if before is not None else None
        newly_failed = was is State.READY and known is None and cause is not None
        return _load_failed(after) if newly_failed else None
    weights_bytes = after.artifact.weights_bytes if after.artifact is not None else 0
    match was, after.state:
        case None, State.AVAILABLE:
            return events.ModelRegistered(model=model, version=version, weights_bytes=weights_bytes)
        case State.PULLING, State.AVAILABLE:
            return events.ModelPulled(
                model=model, version=version, source=str(after.source), weights_bytes=weights_bytes
            )
        case _, State.PULL_FAILED:
            return events.ModelPullFailed(model=model, version=version, failure=cause)
        case _, State.READY:
            return events.ModelLoaded(
                model=model,
                version=version,
                ready_replicas=after.ready_replicas,
                desired_replicas=after.desired_replicas,
            )
        case _, State.LOAD_FAILED:
            return _load_failed(after)
        case State.UNLOADING, State.AVAILABLE:
            return events.ModelUnloaded(model=model, version=version)
        case _:
            return None


def _load_failed(version: Version) -> events.ModelLoadFailed:
    return events.ModelLoadFailed(
        model=version.model,
        version=version.number,
        failure=to_failure(version.failure) if version.failure is not None else None,
        retry_in_ms=round(version.retry_in_s * 1000),
    )


def _alias_events(
    before: Model | None, after: Model | None
) -> Iterator[events.ModelAliasSet | events.ModelAliasRemoved]:
    """The changes of a model's aliases; none for a removed model, whose aliases went with it."""
    if after is None:
        return
    old: Mapping[str, int] = before.aliases if before is not None else {}
    for alias in sorted(old.keys() | after.aliases.keys()):
        version = after.aliases.get(alias)
        if version is None:
            yield events.ModelAliasRemoved(model=after.name, alias=alias)
        elif version != old.get(alias):
            yield events.ModelAliasSet(model=after.name, alias=alias, version=version)


def _adapter_events(
    before: Model | None, after: Model | None
) -> Iterator[events.AdapterAdded | events.AdapterReplaced | events.AdapterRemoved]:
    """The changes of a model's adapters, also of those that a removed model took with it."""
    old: Mapping[str, Adapter] = before.adapters if before is not None else {}
    new: Mapping[str, Adapter] = after.adapters if after is not None else {}
    for name in sorted(old.keys() | new.keys()):
        was, now = old.get(name), new.get(name)
        if now is None and was is not None:
            yield events.AdapterRemoved(model=was.model, adapter=name, digest=was.digest)
        elif now is not None and was is None:
            yield events.AdapterAdded(
                model=now.model, adapter=name, digest=now.digest, weights_bytes=now.weights_bytes
            )
        elif now is not None and was is not None and now.digest != was.digest:
            yield events.AdapterReplaced(
                model=now.model, adapter=name, digest=now.digest, previous_digest=was.digest
            )
