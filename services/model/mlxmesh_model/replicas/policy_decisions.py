"""What policies change by themselves: minimum replicas, idle unload and scaling. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from mlxmesh_model.catalogue.lifecycle import ON_DISK
from mlxmesh_model.catalogue.models import Model, Version
from mlxmesh_model.replicas.scaling import Scaling
from mlxmesh_model.replicas.usage import Usage

LOOK_S = 5.0
"""How often the memory of runtimes with loaded versions is looked at while nothing changes."""

Needed = Collection[str]
"""The labels of versions that must not be unloaded although no model says so yet."""


class Cause(Enum):
    """Why the number of replicas changes."""

    IDLE = "idle"
    SCALED = "scaled"
    EVICTED = "evicted"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A new number of desired replicas; `for_version` is the one that needs the room."""

    version: Version
    replicas: int
    cause: Cause
    usage: Usage = field(default_factory=Usage)
    for_version: str = ""


def least_replicas(model: Model, version: Version) -> int:
    """How many replicas of a version its model's policy always keeps loaded."""
    is_default = version.number == model.default_version and version.state in ON_DISK
    return (model.policy.min_replicas or 0) if is_default else 0


def is_kept(model: Model, version: Version, needed: Needed = frozenset()) -> bool:
    """Whether a version stays loaded whatever happens: by its model's policy, or because a split, a
    shadow or an experiment to come needs it, which would read it as unloaded by somebody.
    """
    routed = version.number in model.routed_versions or version.label in needed
    return bool(routed or model.policy.pinned or least_replicas(model, version))


def is_evictable(
    model: Model, version: Version, needed: Needed = frozenset(), *, on_demand_default: bool
) -> bool:
    """Whether a version may be unloaded for others: a request loads it again."""
    kept = is_kept(model, version, needed)
    return not kept and model.policy.loads_on_demand(on_demand_default)


def adjustments(
    models: Iterable[Model],
    usages: Mapping[str, Usage],
    scaling: Scaling,
    now_s: float,
    needed: Needed = frozenset(),
) -> Iterator[Adjustment]:
    """The changes that policies ask for at present."""
    for model in models:
        for version in _run_by_engines(model):
            usage = usages.get(version.label, Usage())
            if is_idle(model, version, usage, needed):
                yield Adjustment(version, 0, Cause.IDLE, usage)
                continue
            replicas = _scaled(model, version, usage, scaling, now_s)
            if replicas != version.desired_replicas:
                yield Adjustment(version, replicas, Cause.SCALED, usage)


def _run_by_engines(model: Model) -> list[Version]:
    return [version for version in model.versions if version.upstream is None]


def _scaled(model: Model, version: Version, usage: Usage, scaling: Scaling, now_s: float) -> int:
    desired, least = version.desired_replicas, least_replicas(model, version)
    if desired < least:
        return least
    high = model.policy.max_replicas or 0
    if desired and high and usage.ready_engines:
        return scaling.replicas(
            version.label,
            usage,
            desired=desired,
            low=max(1, least),
            high=max(high, least),
            now_s=now_s,
        )
    return desired


def is_idle(model: Model, version: Version, usage: Usage, needed: Needed = frozenset()) -> bool:
    """Whether a version was not used for as long as its policy says."""
    limit_s = model.policy.idle_unload_s or 0
    loaded = version.desired_replicas and usage.ready_engines == version.desired_replicas
    unused = bool(limit_s and loaded and not usage.busy and usage.idle_s >= limit_s)
    return unused and not is_kept(model, version, needed)


def look_again_s(
    models: Iterable[Model], usages: Mapping[str, Usage], *, interval_s: float
) -> float | None:
    """When to look at what runtimes report again although nothing changes; None for never."""
    due: list[float] = []
    for model in models:
        for version in _run_by_engines(model):
            if not version.desired_replicas:
                continue
            due.append(LOOK_S)
            if model.policy.max_replicas and model.policy.max_replicas > 1:
                due.append(interval_s)
            if limit_s := model.policy.idle_unload_s:
                usage = usages.get(version.label, Usage())
                due.append(max(interval_s, limit_s - usage.idle_s))
    return min(due, default=None)
