"""What is unloaded after the end of a rollout. Pure."""

from collections.abc import Iterator

from mlxmesh_model.catalogue.models import DEFAULT_ALIAS, Model, Version
from mlxmesh_model.rollouts.rollout import Rollout, State


def replicas_after(rollout: Rollout, model: Model) -> Iterator[tuple[Version, int]]:
    """The version that is needed less than during the rollout, and its replicas from now on.

    The present version is unloaded after a promotion. The new version gets back the replicas that
    it had before the rollout after any other end, unless somebody has changed them since. A version
    that something else uses stays.
    """
    promoted = rollout.state is State.PROMOTED
    number = rollout.from_version if promoted else rollout.wish.to_version
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


def is_used(model: Model, number: int) -> bool:
    """Whether an alias, a split, a shadow or a pin keeps a version."""
    return (
        model.policy.pinned is True
        or number in model.aliases.values()
        or any(arm.version == number for split in model.splits.values() for arm in split.arms)
        or any(number in (each.from_version, each.to_version) for each in model.shadows)
    )


def _is_default(model: Model, number: int) -> bool:
    """Whether the bare name refers to a version although no alias says so."""
    return DEFAULT_ALIAS not in model.aliases and model.default_version == number
