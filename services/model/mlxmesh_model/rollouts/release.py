"""What is unloaded after the end of a rollout. Pure."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from mlxmesh_model.catalogue.models import DEFAULT_ALIAS, Model, Version
from mlxmesh_model.rollouts.rollout import Rollout, State

EARLIEST = timedelta(seconds=30)
"""How long after the end of a rollout a version stays in any case: assignments and what runtimes
report are known everywhere by then.
"""
LATEST = timedelta(hours=1)
"""How long after it a version that still runs sequences stays."""

InUse = Callable[[str], bool]
"""Whether a version, by its label, runs sequences or has some waiting, as far as is known."""


def left_version(rollout: Rollout) -> int:
    """The version that an ended rollout left."""
    promoted = rollout.state is State.PROMOTED
    return rollout.from_version if promoted else rollout.wish.to_version


def is_due(rollout: Rollout, now: datetime, *, in_use: InUse) -> bool:
    """Whether the version that a rollout left may be unloaded: every generation instance has seen
    the change, and what they had assigned before has ended.
    """
    if rollout.ended_at is None or now >= rollout.ended_at + LATEST:
        return True
    label = f"{rollout.wish.model}@{left_version(rollout)}"
    return now >= rollout.ended_at + EARLIEST and not in_use(label)


def replicas_after(rollout: Rollout, model: Model) -> Iterator[tuple[Version, int]]:
    """The version that is needed less than during the rollout, and its replicas from now on.

    The present version is unloaded after a promotion. The new version gets back the replicas that
    it had before the rollout after any other end, unless somebody has changed them since. A version
    that something else uses stays.
    """
    promoted, number = rollout.state is State.PROMOTED, left_version(rollout)
    version = next((each for each in model.versions if each.number == number), None)
    if version is None or not version.desired_replicas:
        return
    if promoted:
        if not is_used(model, number) and not _is_default(model, number):
            yield version, 0
        return
    previous, is_ours = rollout.previous_replicas, version.desired_replicas == rollout.replicas
    if is_ours and previous < rollout.replicas and not (previous == 0 and is_used(model, number)):
        yield version, previous


def replicas_before(earlier: Rollout, rollout: Rollout) -> int:
    """How many replicas the new version of a rollout would have, had the version that an earlier
    one left been unloaded at once; those of now, if somebody has changed them since.
    """
    if earlier.state is State.PROMOTED:
        return 0
    is_ours = rollout.previous_replicas == earlier.replicas
    return earlier.previous_replicas if is_ours else rollout.previous_replicas


def is_used(model: Model, number: int) -> bool:
    """Whether an alias, a split, a shadow or a pin keeps a version."""
    return (
        model.policy.pinned is True
        or number in model.aliases.values()
        or number in model.routed_versions
    )


def _is_default(model: Model, number: int) -> bool:
    """Whether the bare name refers to a version although no alias says so."""
    return DEFAULT_ALIAS not in model.aliases and model.default_version == number
