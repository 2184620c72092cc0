"""Loading and unloading: sets the desired replicas and waits until the reconciler is done."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from mlxmesh_model.catalogue.models import Phase, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.profiles.profile import NO_CHOICE, GroupChoice, ProfileReference
from mlxmesh_model.replicas.convert import to_error
from mlxmesh_model.replicas.policy_decisions import least_replicas
from mlxmesh_shared.errors import (
    Cancelled,
    DiskFull,
    EngineFailed,
    FetchFailed,
    IllegalState,
    ModelFilesDamaged,
    ModelRefused,
)
from mlxmesh_shared.reference import ModelReference

_PROGRESS_S = 1.0
_OF_FILES = (ModelFilesDamaged.reason, DiskFull.reason, FetchFailed.reason)


class Loader:
    """Changes what is desired in the catalogue and follows how the reconciler reaches it."""

    def __init__(
        self,
        *,
        store: Store,
        wake_reconciler: Callable[[], None],
        fetches: Callable[[Version], object] = lambda _: None,
    ) -> None:
        """fetches: those of the version's files, which are no part of the catalogue."""
        self._store = store
        self._fetches = fetches
        self._wake_reconciler = wake_reconciler

    async def load(
        self,
        reference: ModelReference,
        replicas: int,
        profile: ProfileReference | None = None,
        group: GroupChoice = NO_CHOICE,
    ) -> AsyncGenerator[Version]:
        """Yields the version after each change, and as its files are fetched. Ends once every
        replica is ready with the profile and the group; without them, as at the last load.

        Raises: the cause of a failure (InsufficientMemory, NoRuntime, EngineFailed, ModelRefused);
        ProfileNotFound, InvalidArgument; Cancelled when another call unloads the version meanwhile.
        """
        async for version in self._follow(reference, replicas, profile, group):
            yield version
            raise_failure(version)
            if version.current_ready_replicas >= version.desired_replicas:
                return

    async def unload(self, reference: ModelReference) -> Version:
        """The version, once its replicas have stopped or another call loads it again.

        Raises: IllegalState when its policy always keeps replicas of it.
        """
        model = await self._store.model(reference.name)
        version = model.resolve(reference)
        if version.upstream is None and (least := least_replicas(model, version)):
            raise IllegalState(
                f"min_replicas of {model.name} keeps {least} replicas of {version.label}; run"
                f" `mlxmesh models set {model.name} --min-replicas 0` first"
            )
        async for version in self._follow(reference, 0):
            if not version.replicas or version.desired_replicas:
                return version
        raise AssertionError("following a version never ends by itself")

    async def _follow(
        self,
        reference: ModelReference,
        replicas: int,
        profile: ProfileReference | None = None,
        group: GroupChoice = NO_CHOICE,
    ) -> AsyncGenerator[Version]:
        with self._store.subscribe() as changed:
            version = await self._store.set_desired_replicas(
                reference, replicas=replicas, profile=profile, group=group
            )
            self._wake_reconciler()
            last: tuple[Version, object] | None = None
            while True:
                now = (version, self._fetches(version))
                if now != last:
                    yield version
                last = now
                with suppress(TimeoutError):
                    async with asyncio.timeout(_PROGRESS_S):
                        await changed.wait()
                changed.clear()
                model = await self._store.model(version.model)
                version = model.version(version.number)


def raise_failure(version: Version) -> None:
    """Raises: the cause when a load has failed; Cancelled when the version is not wanted."""
    if version.desired_replicas == 0:
        raise Cancelled(f"{version.label} was unloaded before it was ready")
    for replica in version.current_replicas:
        if replica.phase is Phase.FAILED and replica.failure:
            if replica.failure.reason == ModelRefused.reason:
                raise ModelRefused(f"{version.label}: {replica.failure.message}")
            if replica.failure.reason in _OF_FILES:
                raise to_error(replica.failure)
            raise EngineFailed(f"{replica.engine_id}: {replica.failure.message}")
    if version.failure:
        raise to_error(version.failure)
