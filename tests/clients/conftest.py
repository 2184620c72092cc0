"""One mesh for the examples of a module, and how an example is run against it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path.home() / ".cache" / "mlxmesh" / "tools"
# A first build fetches everything that it is made of.
BUILD_TIMEOUT_S = 600
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that serves `pocket`."""
    running = start_mesh(tmp_path_factory.mktemp("mesh"))
    yield running
    stop_mesh(running)


@pytest.fixture
def run(mesh: RunningMesh) -> Run:
    """Runs a command in an example's folder, with the mesh's address in its environment."""

    def run_in(
        folder: str | Path, *command: str, model: str = "pocket", lines: str = ""
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(TOOLS), str(ROOT / ".venv/bin"), os.environ["PATH"]])
        return subprocess.run(
            command,
            cwd=ROOT / "docs/examples" / folder,
            env={
                **os.environ,
                "PATH": path,
                "MLXMESH_ADDRESS": mesh.address,
                "MLXMESH_EXAMPLE_MODEL": model,
            },
            input=lines,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )

    return run_in
