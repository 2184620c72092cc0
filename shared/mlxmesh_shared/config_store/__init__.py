"""The configuration store: settings that operators change while the mesh runs."""

import contextlib
from collections.abc import AsyncGenerator

from mlxmesh_shared.config_store.port import ConfigStore, NoConfigStore
from mlxmesh_shared.settings import MeshSettings

__all__ = ["ConfigStore", "NoConfigStore", "open_config_store"]


@contextlib.asynccontextmanager
async def open_config_store(settings: MeshSettings) -> AsyncGenerator[ConfigStore]:
    """The configuration store of a mesh, closed after the body. Raises: RegistryUnavailable."""
    store = _store(settings)
    try:
        yield store
    finally:
        await store.close()


def _store(settings: MeshSettings) -> ConfigStore:
    if settings.config_store == "consul":
        # Not at the top: a mesh on one machine does not need an HTTP client.
        from mlxmesh_shared.config_store.consul import ConsulConfigStore

        return ConsulConfigStore(settings.consul)
    return NoConfigStore()
