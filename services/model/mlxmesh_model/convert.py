"""Converts the catalogue's domain objects to ModelService's messages and back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1 import ensemble_pb2, model_pb2, policy_pb2, split_pb2
from mlxmesh_model.adapters.convert import to_adapter
from mlxmesh_model.artifacts.progress import Step
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import (
    Artifact,
    Change,
    FailureRecord,
    Model,
    ModelKind,
    Version,
)
from mlxmesh_model.catalogue.routing import Policy, Price, Shadow, Split, Subject
from mlxmesh_model.profiles.profile import GroupChoice
from mlxmesh_model.replicas.convert import to_failure
from mlxmesh_model.replicas.groups import Group
from mlxmesh_model.replicas.placement import Fetch
from mlxmesh_model.upstreams.convert import to_upstream
from mlxmesh_shared.errors import MeshError

_STATES = {
    State.PULLING: model_pb2.VERSION_STATE_PULLING,
    State.PULL_FAILED: model_pb2.VERSION_STATE_FAILED,
    State.AVAILABLE: model_pb2.VERSION_STATE_AVAILABLE,
    State.LOADING: model_pb2.VERSION_STATE_LOADING,
    State.READY: model_pb2.VERSION_STATE_READY,
    State.UNLOADING: model_pb2.VERSION_STATE_UNLOADING,
    State.LOAD_FAILED: model_pb2.VERSION_STATE_FAILED,
}
_KINDS = {kind: model_pb2.ModelKind.Value(f"MODEL_KIND_{kind.name}") for kind in ModelKind}
_SUBJECTS = {
    Subject.SESSION: split_pb2.SPLIT_SUBJECT_SESSION,
    Subject.USER: split_pb2.SPLIT_SUBJECT_USER,
    Subject.PRINCIPAL: split_pb2.SPLIT_SUBJECT_PRINCIPAL,
    Subject.REQUEST: split_pb2.SPLIT_SUBJECT_REQUEST,
}
_PLAIN_POLICY = (
    "load_on_demand",
    "load_timeout_s",
    "idle_unload_s",
    "pinned",
    "min_replicas",
    "max_replicas",
)
RejectionsOf = Callable[[Version], Mapping[str, FailureRecord]]
"""The runtimes that rejected a version, and why."""
_NOTHING_ON_DISK = Artifact("", "", "", 0, 0, "", 0, 0)


GroupsOf = Callable[[Version], Sequence[Group]]
"""The replicas of a version that are groups."""
FetchesOf = Callable[[Version], Mapping[str, Fetch]]
"""The runtimes that fetch the files of a version, and how far they are."""


def _none(_: Version) -> Mapping[str, FailureRecord]:
    return {}


def no_fetches(_: Version) -> Mapping[str, Fetch]:
    """None of any version."""
    return {}


def no_groups(_: Version) -> Sequence[Group]:
    """None of any version."""
    return ()


def to_model(
    model: Model,
    *,
    only: Version | None = None,
    rejections: RejectionsOf = _none,
    fetches: FetchesOf = no_fetches,
    groups: GroupsOf = no_groups,
) -> model_pb2.Model:
    """A model with all its versions, or with only one of them."""
    versions = [version for version in model.versions if only in (None, version)]
    return model_pb2.Model(
        name=model.name,
        versions=[
            to_version(version, rejections(version), fetches(version), groups(version))
            for version in versions
        ],
        aliases=model.aliases,
        default_version=model.default_version,
        splits={alias: to_split(split) for alias, split in model.splits.items()},
        policy=to_policy(model.policy),
        shadows=map(_to_shadow, model.shadows),
        ensemble=to_recipe(model.ensemble) if model.ensemble else None,
        adapters=map(to_adapter, model.adapters.values()),
    )


def to_policy(policy: Policy) -> policy_pb2.ModelPolicy:
    """A policy; what has no value is not set."""
    price = policy.price
    return policy_pb2.ModelPolicy(
        load_on_demand=policy.load_on_demand,
        load_timeout_s=policy.load_timeout_s,
        idle_unload_s=policy.idle_unload_s,
        pinned=policy.pinned,
        min_replicas=policy.min_replicas,
        max_replicas=policy.max_replicas,
        price=policy_pb2.Price(**asdict(price)) if price is not None else None,
    )


def from_policy(policy: policy_pb2.ModelPolicy) -> Policy:
    """What a request sets; None for the rest."""
    given = {name: getattr(policy, name) for name in _PLAIN_POLICY if _has(policy, name)}
    price = _from_price(policy.price) if policy.HasField("price") else None
    return Policy(**given, price=price)


def from_uses(uses: Iterable[model_pb2.VersionUse]) -> dict[str, float]:
    """How long ago versions were used, in seconds, by label."""
    return {f"{use.name}@{use.version}": use.idle_ms / 1000 for use in uses}


def _has(policy: policy_pb2.ModelPolicy, name: Any) -> bool:
    return policy.HasField(name)


def _from_price(price: policy_pb2.Price) -> Price:
    return Price(
        price.per_million_prompt_tokens,
        price.per_million_cached_tokens,
        price.per_million_completion_tokens,
        price.per_device_second,
    )


def to_split(split: Split) -> split_pb2.Split:
    """A split with its arms."""
    return split_pb2.Split(
        rollout_id=split.rollout_id,
        experiment_id=split.experiment_id,
        subject=_SUBJECTS[split.subject],
        salt=split.salt,
        arms=[
            split_pb2.SplitArm(arm=arm.name, version=arm.version, weight=arm.weight)
            for arm in split.arms
        ],
    )


def _to_shadow(shadow: Shadow) -> split_pb2.Shadow:
    return split_pb2.Shadow(**asdict(shadow))


def to_recipe(text: str) -> ensemble_pb2.EnsembleRecipe:
    """A recipe from its stored form."""
    return json_format.Parse(text, ensemble_pb2.EnsembleRecipe())


def to_version(
    version: Version,
    rejections: Mapping[str, FailureRecord] | None = None,
    fetches: Mapping[str, Fetch] | None = None,
    groups: Sequence[Group] = (),
) -> model_pb2.ModelVersion:
    """A version; the properties of its files are unset until it is on disk."""
    artifact = version.artifact or _NOTHING_ON_DISK
    created = Timestamp()
    created.FromDatetime(version.created_at)
    return model_pb2.ModelVersion(
        version=version.number,
        state=_STATES[version.state],
        source=str(version.upstream or version.source),
        digest=artifact.digest,
        architecture=artifact.architecture,
        parameters=artifact.parameters,
        weights_bytes=artifact.weights_bytes,
        dtype=artifact.dtype,
        context_tokens=version.context_tokens,
        vocab_size=artifact.vocab_size,
        desired_replicas=version.desired_replicas,
        ready_replicas=version.ready_replicas,
        failure=_failure(version),
        create_time=created,
        retry_in_ms=round(version.retry_in_s * 1000),
        rejections={one: to_failure(cause) for one, cause in (rejections or {}).items()},
        tool_format=version.formats.tools or version.settings.tool_format or "",
        reasoning_format=version.formats.reasoning or version.settings.reasoning_format or "",
        profile=version.profile,
        profile_revision=version.profile_revision,
        upstream=to_upstream(version.upstream) if version.upstream else None,
        kind=_KINDS[artifact.kind] if version.artifact else model_pb2.MODEL_KIND_UNSPECIFIED,
        dimensions=artifact.dimensions,
        fetches={
            one: model_pb2.FileFetch(done_bytes=fetch.done_bytes, total_bytes=fetch.total_bytes)
            for one, fetch in (fetches or {}).items()
        },
        group_size=version.settings.group_size or 1,
        group_split=version.settings.group_split or "",
        groups=map(_to_group, groups),
    )


def _to_group(group: Group) -> model_pb2.ReplicaGroup:
    ranks = [
        model_pb2.ReplicaRank(
            rank=each.rank,
            runtime_id=each.runtime_id,
            host=each.host,
            round_trip_us=each.round_trip_us,
        )
        for each in group.ranks
    ]
    return model_pb2.ReplicaGroup(engine_id=group.engine_id, ranks=ranks)


def from_group(request: model_pb2.LoadModelRequest) -> GroupChoice:
    """What a load says about groups."""
    return GroupChoice(
        request.group_size if request.HasField("group_size") else None,
        request.group_split if request.HasField("group_split") else None,
    )


def from_kind(kind: model_pb2.ModelKind.ValueType) -> str:
    """The kind that a request names; empty if it names none."""
    return next((name.value for name, value in _KINDS.items() if value == kind), "")


def _failure(version: Version) -> Failure | None:
    """Why the version failed, or why it cannot be loaded."""
    try:
        version.check_files()
    except MeshError as error:
        return to_failure(version.failure or FailureRecord.of(error))
    return to_failure(version.failure) if version.failure else None


def to_change(change: Change) -> model_pb2.WatchModelsResponse:
    """A change for a watcher."""
    if change.model is None:
        return model_pb2.WatchModelsResponse(sequence=change.sequence, removed_name=change.name)
    return model_pb2.WatchModelsResponse(sequence=change.sequence, model=to_model(change.model))


def to_progress(step: Step) -> model_pb2.PullModelResponse:
    """The progress of a pull."""
    return model_pb2.PullModelResponse(
        name=step.name,
        done_bytes=step.progress.done_bytes,
        total_bytes=step.progress.total_bytes,
        file=step.progress.file,
        version=to_version(step.version) if step.version else None,
    )


def to_import_progress(step: Step) -> model_pb2.ImportModelResponse:
    """The progress of an import."""
    return model_pb2.ImportModelResponse(
        name=step.name,
        done_bytes=step.progress.done_bytes,
        total_bytes=step.progress.total_bytes,
        version=to_version(step.version) if step.version else None,
    )
