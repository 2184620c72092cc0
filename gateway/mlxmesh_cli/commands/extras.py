"""What a whole mesh needs beside the command, and what of it is not installed here."""

from __future__ import annotations

import os
from importlib.util import find_spec

# One package of each extra that nothing else brings along.
NEEDED = ("uvicorn", "tokenizers", "jinja2", "sqlalchemy", "psutil")
NEEDED_BY_ENGINES = ("mlx", "mlx_lm")


def missing_packages() -> list[str]:
    """Packages that `mlxmesh up` would miss; an engine that is simulated needs no MLX."""
    is_simulated = os.environ.get("MLXMESH_ENGINE_BACKEND") == "simulated"
    needed = NEEDED if is_simulated else NEEDED + NEEDED_BY_ENGINES
    return [name for name in needed if find_spec(name) is None]
