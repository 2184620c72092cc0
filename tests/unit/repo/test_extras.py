"""A package imports only what its extra installs, so that `mlxmesh[gateway]` alone can run."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
# Packages without an extra of their own name; everything else is `mlxmesh_<extra>`.
EXTRA_OF = {"mlxmesh_shared": None, "mlxmesh_client": None, "mlxmesh_launcher": "cli"}
# Modules that are imported only where a further extra is wanted.
FURTHER_EXTRA_OF = {
    "gateway/mlxmesh_cli/commands/menubar.py": "menubar",
    "gateway/mlxmesh_cli/commands/mcp_serve.py": "mcp",
    "gateway/mlxmesh_cli/screen/experiment_plot.py": "plots",
    "gateway/mlxmesh_gateway/mcp/service.py": "mcp",
    # Engines of the kind vision.
    "services/runtime/mlxmesh_engine/vision/image_file.py": "vision",
    "services/runtime/mlxmesh_engine/vision/loader.py": "vision",
    "services/runtime/mlxmesh_engine/vision/reader.py": "vision",
    # Only gateways verify access tokens, once there are users.
    "shared/mlxmesh_shared/access_tokens.py": "gateway",
    # Only services that keep secrets encrypt them.
    "shared/mlxmesh_shared/encryption.py": "access",
    # Without psutil, which runtimes and the command have, some figures are 0.
    "shared/mlxmesh_shared/host/figures.py": "runtime",
    # Only engines and the model service read adapters.
    "shared/mlxmesh_shared/lora/adapter_files.py": "engine",
    "shared/mlxmesh_shared/mcp_server/server.py": "mcp",
    "shared/mlxmesh_shared/sql/postgres.py": "postgres",
    # Every extra with a database has the drivers of SQLite and the upgrade.
    "shared/mlxmesh_shared/sql/sqlite.py": "access",
    "shared/mlxmesh_shared/sql/upgrade.py": "access",
}
OURS = {Path(folder).name for folder in FOLDERS}


@cache
def _distributions() -> dict[str, set[str]]:
    """Import name to the distributions that hold it."""
    found = packages_distributions()
    return {name: {canonicalize_name(owner) for owner in found[name]} for name in found}


def _installed_with(extra: str | None) -> set[str]:
    project = PYPROJECT["project"]
    lines = [*project["dependencies"]]
    if extra is not None:
        lines += project["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(line).name) for line in lines}


def _allowed(extra: str | None, file: str) -> set[str]:
    further = FURTHER_EXTRA_OF.get(file)
    return _installed_with(extra) | (_installed_with(further) if further else set())


def _third_party_imports(folder: Path) -> Iterator[tuple[str, str]]:
    """Top-level name and `file:line` of each import that is neither ours nor standard."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            else:
                continue
            for name in {name.split(".")[0] for name in names}:
                if name not in OURS and name not in sys.stdlib_module_names:
                    yield name, f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.mark.parametrize("folder", [name for name in FOLDERS if not name.startswith("protos/")])
def test_imports_are_declared_by_the_extra(folder: str):
    package = Path(folder).name
    extra = EXTRA_OF.get(package, package.removeprefix("mlxmesh_"))
    undeclared = [
        f"{where} imports {name}"
        for name, where in _third_party_imports(ROOT / folder)
        if not _distributions().get(name, {name}) & _allowed(extra, where.partition(":")[0])
    ]
    assert undeclared == [], f"declare it in extra {extra or 'none: the base dependencies'}"
