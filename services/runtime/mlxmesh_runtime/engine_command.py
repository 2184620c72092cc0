"""The command line that starts an engine process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mlxmesh_runtime.engine_record import EngineSpec

# The runtime ends every drain: the engine's own limit must not cut a longer grace short.
DRAIN_WITHOUT_LIMIT_S = 24 * 3600
MLXMESH_ENGINE = (sys.executable, "-m", "mlxmesh_engine")


@dataclass(frozen=True, kw_only=True)
class EngineCommand:
    """Builds command lines; `program` is what comes before the engine's flags."""

    data_dir: Path
    log_level: str = "info"
    log_format: str = "auto"
    tls_dir: Path | None = None
    reflection: bool = True
    program: Sequence[str] = MLXMESH_ENGINE

    def line(self, spec: EngineSpec) -> list[str]:
        """The whole command line for one engine."""
        flags: dict[str, object] = {
            "engine_id": spec.engine_id,
            "model": spec.model,
            "model_version": spec.model_version,
            "model_dir": spec.model_dir,
            "data_dir": self.data_dir,
            "drain_grace_s": DRAIN_WITHOUT_LIMIT_S,
            "log_level": self.log_level,
            "log_format": self.log_format,
        }
        if self.tls_dir is not None:
            flags["tls_dir"] = self.tls_dir
        flags |= {name: value for name, value in asdict(spec.options).items() if value is not None}
        words = [(f"--{name.replace('_', '-')}", str(value)) for name, value in flags.items()]
        line = [*self.program, *(word for pair in words for word in pair)]
        return line if self.reflection else [*line, "--no-reflection"]

    def spare_line(self) -> list[str]:
        """The command line for an engine process that waits for its own."""
        return [*self.program, "--spare", "--data-dir", str(self.data_dir)]
