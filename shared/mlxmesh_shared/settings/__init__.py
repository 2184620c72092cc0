"""Settings, read once in each process's `main()`; the dynamic ones may change after that."""

from mlxmesh_shared.settings.consul import ConsulSettings
from mlxmesh_shared.settings.dynamic import LiveSettings, live_settings
from mlxmesh_shared.settings.layers import SettingsError, Sourced, load_settings, sources
from mlxmesh_shared.settings.sections import (
    SETTINGS,
    EngineSettings,
    GatewaySettings,
    GenerationSettings,
    MeshSettings,
    ModelSettings,
    RuntimeSettings,
    dynamic_names,
)

__all__ = [
    "SETTINGS",
    "ConsulSettings",
    "EngineSettings",
    "GatewaySettings",
    "GenerationSettings",
    "LiveSettings",
    "MeshSettings",
    "ModelSettings",
    "RuntimeSettings",
    "SettingsError",
    "Sourced",
    "dynamic_names",
    "live_settings",
    "load_settings",
    "sources",
]
