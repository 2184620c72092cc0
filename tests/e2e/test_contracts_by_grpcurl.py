"""What a person with grpcurl sees: documented contracts, and a stream."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.running_mesh import RunningMesh

pytestmark = pytest.mark.tools
TOOLS = Path.home() / ".cache" / "mlxmesh" / "tools"


def grpcurl(*arguments: str) -> str:
    path = os.pathsep.join([str(TOOLS), str(TOOLS / "bin"), os.environ["PATH"]])
    program = shutil.which("grpcurl", path=path)
    assert program, "grpcurl is missing: `make tools` fetches it"
    result = subprocess.run(
        [program, "-plaintext", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_list_shows_the_public_services_alone(mesh: RunningMesh) -> None:
    services = grpcurl(mesh.address, "list").split()
    assert "mlxmesh.generation.v1.GenerationService" in services
    assert "mlxmesh.model.v1.ModelService" in services
    assert not any("engine" in name or "runtime" in name for name in services)


def test_describe_shows_the_comments(mesh: RunningMesh) -> None:
    text = grpcurl(mesh.address, "describe", "mlxmesh.generation.v1.GenerateRequest")
    assert "// The largest number of tokens to generate. Default 512" in text


def test_generate_streams(mesh: RunningMesh) -> None:
    body = json.dumps({"model": "pocket", "prompt": "Once upon a time", "max_tokens": 8})
    text = grpcurl("-d", body, mesh.address, "mlxmesh.generation.v1.GenerationService/Generate")
    assert '"started"' in text
    assert '"delta"' in text
    assert '"finished"' in text
