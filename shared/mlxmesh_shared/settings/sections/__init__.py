"""The settings of every process of the mesh, one section each."""

from mlxmesh_shared.settings.sections.mesh import MeshSettings, dynamic_names
from mlxmesh_shared.settings.sections.services import (
    AccessSettings,
    EngineSettings,
    GatewaySettings,
    GenerationSettings,
    JobsSettings,
    ModelSettings,
    RuntimeSettings,
    ToolsSettings,
    WorkerSettings,
)

__all__ = [
    "SETTINGS",
    "AccessSettings",
    "EngineSettings",
    "GatewaySettings",
    "GenerationSettings",
    "JobsSettings",
    "MeshSettings",
    "ModelSettings",
    "RuntimeSettings",
    "ToolsSettings",
    "WorkerSettings",
    "dynamic_names",
]

# Every process reads this table: it validates the whole mlxmesh.toml (docs/decisions/0032).
SETTINGS: dict[str, type[MeshSettings]] = {
    "mesh": MeshSettings,
    "gateway": GatewaySettings,
    "generation": GenerationSettings,
    "model": ModelSettings,
    "access": AccessSettings,
    "jobs": JobsSettings,
    "worker": WorkerSettings,
    "tools": ToolsSettings,
    "runtime": RuntimeSettings,
    "engine": EngineSettings,
}
