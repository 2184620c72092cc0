"""Discovery: the port, and the adapter that the settings choose."""

from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.settings import MeshSettings

__all__ = ["Instance", "Registry", "open_registry"]


def open_registry(settings: MeshSettings) -> Registry:
    """The registry of a mesh; the caller closes it."""
    return DirectoryRegistry(settings.data_dir / "registry")
