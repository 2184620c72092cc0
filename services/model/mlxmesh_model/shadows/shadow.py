"""Shadows and what they found. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Model, Version
from mlxmesh_model.catalogue.routing import Shadow
from mlxmesh_shared.errors import FeatureNotSupported, IllegalState, InvalidArgument

MAX_RUNNING = 8
"""Shadows of one model at the same time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a shadow repeats; from_version 0 means every version but to_version."""

    model: str
    to_version: int
    from_version: int = 0
    percent: float = 10.0


@dataclass(frozen=True, slots=True)
class Run:
    """A shadow that runs or has ended; `number` grows with each one."""

    shadow_id: str
    plan: Plan
    created_at: datetime
    number: int
    ended_at: datetime | None = None


class DropReason(StrEnum):
    """Why a sampled request was not repeated, or not compared; the values are stored."""

    NO_ROOM = "no_room"
    FAILED = "failed"
    TIMEOUT = "timeout"
    PRIMARY_INCOMPLETE = "primary_incomplete"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two answers to one request; it has no text."""

    request_id: str
    from_version: int
    time: datetime
    equal: bool
    first_difference: int
    edit_distance: float
    primary_tokens: int
    shadow_tokens: int
    primary_ttft_ms: float
    shadow_ttft_ms: float
    primary_tokens_per_second: float
    shadow_tokens_per_second: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What an instance reports at once; its batches have growing numbers."""

    instance_id: str
    number: int
    pairs: Sequence[Pair] = ()
    drops: Mapping[DropReason, int] = field(default_factory=dict[DropReason, int])


def check_start(model: Model, plan: Plan) -> None:
    """Raises: InvalidArgument, ModelNotFound; IllegalState for a version that another shadow of
    the model repeats traffic at, or that is not loaded; FeatureNotSupported for an upstream.
    """
    version = model.version(plan.to_version, field="to_version")
    _check_local(version, "to_version")
    if plan.from_version:
        _check_local(model.version(plan.from_version, field="from_version"), "from_version")
    if plan.from_version == plan.to_version:
        raise InvalidArgument(
            "from_version must differ from to_version, or be 0", field="from_version"
        )
    check_others(model.shadows, plan)
    if version.state not in _LOADED and not model.policy.load_on_demand:
        raise IllegalState(
            f"{version.label} is not loaded; run `mlxmesh load {version.label}` first"
        )


def _check_local(version: Version, field: str) -> None:
    """Raises: FeatureNotSupported for an upstream, whose tokens and idle times nobody knows."""
    if version.upstream is not None:
        raise FeatureNotSupported(
            f"{field}: {version.label} is an upstream, which has no shadows and is none; compare it"
            " in an experiment",
            field=field,
        )


def check_others(shadows: Sequence[Shadow], plan: Plan) -> None:
    """Raises: IllegalState if another shadow has the version, or too many run."""
    for other in shadows:
        if other.to_version == plan.to_version:
            raise IllegalState(
                f"shadow {other.shadow_id} repeats requests at {plan.model}@{plan.to_version}"
                f" already; run `mlxmesh shadow stop {other.shadow_id}` first"
            )
    if len(shadows) >= MAX_RUNNING:
        raise IllegalState(f"{plan.model} has {MAX_RUNNING} shadows; stop one first")


_LOADED = frozenset({State.READY, State.LOADING})
