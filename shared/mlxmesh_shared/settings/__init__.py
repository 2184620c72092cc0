"""Settings: each process loads them once in `main()`; the dynamic ones may change afterwards."""

from mlxmesh_shared.settings.consul import ConsulSettings
from mlxmesh_shared.settings.dynamic import LiveSettings, live_settings, section_values
from mlxmesh_shared.settings.layers import (
    SettingsError,
    Sourced,
    load_settings,
    load_with_sources,
    sources,
)
from mlxmesh_shared.settings.sections import (
    SETTINGS,
    AccessSettings,
    EngineSettings,
    GatewaySettings,
    GenerationSettings,
    JobsSettings,
    MeshSettings,
    ModelSettings,
    RuntimeSettings,
    ToolsSettings,
    WorkerSettings,
    dynamic_names,
)

__all__ = [
    "SETTINGS",
    "AccessSettings",
    "ConsulSettings",
    "EngineSettings",
    "GatewaySettings",
    "GenerationSettings",
    "JobsSettings",
    "LiveSettings",
    "MeshSettings",
    "ModelSettings",
    "RuntimeSettings",
    "SettingsError",
    "Sourced",
    "ToolsSettings",
    "WorkerSettings",
    "dynamic_names",
    "live_settings",
    "load_settings",
    "load_with_sources",
    "section_values",
    "sources",
]
