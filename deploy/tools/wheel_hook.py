"""A build hook of hatch: every wheel has the console in it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STATIC = "mlxmesh_gateway/console/static"
BUILT_ELSEWHERE = "MLXMESH_CONSOLE_BUILD"
"""Names the folder of a build to take instead of this checkout's."""


class ConsoleHook(BuildHookInterface[Any]):
    """Adds the built console to the wheel, and builds it first where the checkout lacks it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        elsewhere = os.environ.get(BUILT_ELSEWHERE)
        folder = Path(elsewhere) if elsewhere else Path(self.root) / "gateway" / STATIC
        if not elsewhere:
            self._build()
        if not (folder / "index.html").is_file():
            raise RuntimeError(
                f"{folder} holds no build of the console, which every wheel contains:"
                " run `make console`, which says what is missing"
            )
        build_data["force_include"][str(folder)] = STATIC

    def _build(self) -> None:
        """Brings the console up to date where that can be done; a build that is there will do."""
        script = Path(self.root) / "deploy" / "tools" / "build_console.py"
        if script.is_file():
            subprocess.run([sys.executable, str(script)], check=False)
