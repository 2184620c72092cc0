"""Loading and unloading: says what is desired, and waits until it is so."""

from collections.abc import AsyncGenerator, Callable

from mlxmesh_model.catalogue.models import Phase, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.convert import to_error
from mlxmesh_shared.errors import Cancelled, EngineFailed, ModelRefused
from mlxmesh_shared.reference import ModelReference


class Loads:
    """Waits on the catalogue for what the reconciler brings about."""

    def __init__(self, *, store: Store, wake_reconciler: Callable[[], None]) -> None:
        self._store = store
        self._wake_reconciler = wake_reconciler

    async def load(self, reference: ModelReference, replicas: int) -> AsyncGenerator[Version]:
        """The version as it is, after each change, and at last with every replica ready.

        Raises: what prevents it (InsufficientMemory, NoRuntime, EngineFailed, ModelRefused);
        Cancelled when somebody unloads it meanwhile.
        """
        async for version in self._follow(reference, replicas):
            yield version
            _raise_failure(version)
            if version.ready_replicas >= version.desired_replicas:
                return

    async def unload(self, reference: ModelReference) -> Version:
        """The version, once its replicas are gone or somebody loads it again."""
        async for version in self._follow(reference, 0):
            if not version.replicas or version.desired_replicas:
                return version
        raise AssertionError("following a version never ends by itself")

    async def _follow(self, reference: ModelReference, replicas: int) -> AsyncGenerator[Version]:
        with self._store.bell() as bell:
            version = await self._store.intend(reference, replicas=replicas)
            self._wake_reconciler()
            shown: Version | None = None
            while True:
                if version != shown:
                    yield version
                shown = version
                await bell.wait()
                bell.clear()
                model = await self._store.model(version.model)
                version = model.version(version.number)


def _raise_failure(version: Version) -> None:
    if version.desired_replicas == 0:
        raise Cancelled(f"{version.label} was unloaded before it was ready")
    for replica in version.replicas:
        if replica.phase is Phase.FAILED and replica.failure:
            if replica.failure.reason == ModelRefused.reason:
                raise ModelRefused(f"{version.label}: {replica.failure.message}")
            raise EngineFailed(f"{replica.engine_id}: {replica.failure.message}")
    if version.failure:
        raise to_error(version.failure)
