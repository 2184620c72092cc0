"""The settings of every process of the mesh, one section each."""

from mlxmesh_shared.settings.sections.engine import EngineSettings
from mlxmesh_shared.settings.sections.gateway import GatewaySettings
from mlxmesh_shared.settings.sections.generation import GenerationSettings
from mlxmesh_shared.settings.sections.mesh import MeshSettings, dynamic_names
from mlxmesh_shared.settings.sections.model import ModelSettings
from mlxmesh_shared.settings.sections.runtime import RuntimeSettings

__all__ = [
    "SETTINGS",
    "EngineSettings",
    "GatewaySettings",
    "GenerationSettings",
    "MeshSettings",
    "ModelSettings",
    "RuntimeSettings",
    "dynamic_names",
]

# Every process reads this table: it validates the whole mlxmesh.toml (docs/decisions/0032).
SETTINGS: dict[str, type[MeshSettings]] = {
    "mesh": MeshSettings,
    "gateway": GatewaySettings,
    "generation": GenerationSettings,
    "model": ModelSettings,
    "runtime": RuntimeSettings,
    "engine": EngineSettings,
}
