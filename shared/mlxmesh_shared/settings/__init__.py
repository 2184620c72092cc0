"""Settings, read once in each process's `main()`."""

from mlxmesh_shared.settings.layers import SettingsError, Sourced, load_settings, sources
from mlxmesh_shared.settings.sections import (
    SETTINGS,
    EngineSettings,
    GatewaySettings,
    GenerationSettings,
    MeshSettings,
    ModelSettings,
    RuntimeSettings,
)

__all__ = [
    "SETTINGS",
    "EngineSettings",
    "GatewaySettings",
    "GenerationSettings",
    "MeshSettings",
    "ModelSettings",
    "RuntimeSettings",
    "SettingsError",
    "Sourced",
    "load_settings",
    "sources",
]
