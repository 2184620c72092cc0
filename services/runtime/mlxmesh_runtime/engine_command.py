"""The command line that starts an engine process."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from mlxmesh_runtime.engine_record import EngineSpec
from mlxmesh_shared.settings import MeshSettings

# The runtime ends every drain: the engine's own limit must not cut a longer grace short.
DRAIN_WITHOUT_LIMIT_S = 24 * 3600
MLXMESH_ENGINE = (sys.executable, "-m", "mlxmesh_engine")
# Others on the host can see a command line; who sets it in the environment sets it for engines too.
_SECRET = "consul_token"  # noqa: S105 - its name


@dataclass(frozen=True, kw_only=True)
class EngineCommand:
    """Builds command lines; `program` is what comes before the engine's flags.

    What its runtime was told about the mesh, an engine is told too.
    """

    mesh: MeshSettings
    program: Sequence[str] = MLXMESH_ENGINE

    def line(self, spec: EngineSpec) -> list[str]:
        """The whole command line for one engine."""
        flags: dict[str, object] = {
            "engine_id": spec.engine_id,
            "model": spec.model,
            "model_version": spec.model_version,
            "model_dir": spec.model_dir,
            "drain_grace_s": DRAIN_WITHOUT_LIMIT_S,
            **self._told(),
            **asdict(spec.options),
        }
        return [*self.program, *_words(flags)]

    def spare_line(self) -> list[str]:
        """The command line for an engine process that waits for its own."""
        return [*self.program, *_words({"spare": True, "data_dir": self.mesh.data_dir})]

    def _told(self) -> dict[str, object]:
        told = self.mesh.model_fields_set | {"data_dir"}
        names = [name for name in MeshSettings.model_fields if name in told and name != _SECRET]
        return {name: getattr(self.mesh, name) for name in names}


def _words(flags: Mapping[str, object]) -> Iterator[str]:
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif value is not None:
            yield from (f"--{flag}", str(value))
