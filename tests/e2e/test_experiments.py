"""An experiment in a whole mesh, with the command: arms stay through restarts of everything."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlxmesh.generation.v1.generation_pb2 import Started
from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh, wait_until_serving

SESSIONS = [f"session-{at}" for at in range(12)]
# A gateway that is replaced waits for its connections to end by age.
QUICK_HANDOVER = {"MLXMESH_GATEWAY_MAX_CONNECTION_AGE_S": "2"}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    running = start_mesh(tmp_path_factory.mktemp("mesh"), env=QUICK_HANDOVER)
    yield running
    stop_mesh(running)


def _json(mesh: RunningMesh, *arguments: str) -> Any:
    result = mesh.command(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def _register_another(mesh: RunningMesh, folder: Path) -> int:
    """Registers a copy of the bundled model with other content."""
    models = _json(mesh, "models")["models"]
    (pocket,) = [model for model in models if model["name"] == "pocket"]
    shutil.copytree(pocket["versions"][0]["source"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "comment": "another"}))
    return _json(mesh, "register", str(folder), "--name", "pocket")["version"]


async def _arms(address: str) -> dict[str, str]:
    """The arm of each session, and its version."""
    found: dict[str, str] = {}
    async with MeshClient(address) as client:
        for session in SESSIONS:
            response = await client.complete(
                "pocket", prompt="Hi", max_tokens=1, session_id=session
            )
            started: Started = response.started
            found[session] = f"{started.arm}@{started.model_version}"
    return found


def _until_running(mesh: RunningMesh, experiment_id: str) -> None:
    deadline = time.monotonic() + 120
    while _json(mesh, "experiment", "show", experiment_id)["state"] != "running":
        assert time.monotonic() < deadline
        time.sleep(0.3)


async def _until_split(address: str) -> dict[str, str]:
    """Generation follows the catalogue a moment later."""
    deadline = time.monotonic() + 60
    while True:
        found = await _arms(address)
        if not any(arm.startswith("@") for arm in found.values()):
            return found
        assert time.monotonic() < deadline


async def test_sessions_keep_their_arms_when_every_service_is_restarted(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    version = _register_another(mesh, tmp_path / "pocket")
    started = _json(
        mesh,
        *("experiment", "start", "pocket", "--by", "session"),
        *("--arm", "control=1:50", "--arm", f"new={version}:50"),
    )
    experiment_id = started["experiment_id"]
    _until_running(mesh, experiment_id)
    before = await _until_split(mesh.address)
    assert set(before.values()) == {"control@1", f"new@{version}"}
    restarted = mesh.command("restart", "model", "generation", "gateway")
    assert restarted.returncode == 0, restarted.stderr
    wait_until_serving(mesh)
    assert await _until_split(mesh.address) == before
    refused = mesh.command("alias", "pocket", "default", "1")
    assert refused.returncode == 1
    assert f"experiment {experiment_id} splits pocket:default" in refused.stderr
    stopped = _json(mesh, "experiment", "stop", experiment_id, "--winner", "new")
    assert stopped["state"] == "stopped"
    (pocket,) = [each for each in _json(mesh, "models")["models"] if each["name"] == "pocket"]
    assert pocket["aliases"] == {"default": version}
    analysis = _json(mesh, "experiment", "analyze", experiment_id)
    assert analysis["experiment"]["experiment_id"] == experiment_id


async def _scored(mesh: RunningMesh, request_id: str, score: str) -> dict[str, Any]:
    """What scoring a response prints; responses can be scored some seconds after their end."""
    deadline = time.monotonic() + 60
    while True:
        result = mesh.command("experiment", "score", request_id, score, "--json")
        if result.returncode == 0:
            return json.loads(result.stdout)
        assert request_id in result.stderr
        assert time.monotonic() < deadline, result.stderr
        await asyncio.sleep(0.3)


async def test_a_score_of_a_caller_is_in_the_analysis(mesh: RunningMesh) -> None:
    arms = ("--arm", "control=1:50", "--arm", "new=2:50", "--by", "session")
    started = _json(mesh, "experiment", "start", "pocket", *arms, "--id", "scored")
    assert started["experiment_id"] == "scored"
    _until_running(mesh, "scored")
    split = await _until_split(mesh.address)
    async with MeshClient(mesh.address) as client:
        for session in SESSIONS:
            await client.complete(
                "pocket",
                prompt="Hi",
                max_tokens=2,
                session_id=session,
                request_id=f"scored-{session}",
            )
    for session in SESSIONS:
        counted = await _scored(mesh, f"scored-{session}", "0.8")
        assert counted["experiment_id"] == "scored"
        assert counted["arm"] == split[session].partition("@")[0]
    again = mesh.command("experiment", "score", f"scored-{SESSIONS[0]}", "0.8")
    assert "counted in scored" in again.stdout, again.stderr
    other = mesh.command("experiment", "score", f"scored-{SESSIONS[0]}", "-0.5")
    assert other.returncode == 1
    assert "score" in other.stderr
    analysis = _json(mesh, "experiment", "analyze", "scored", "--metric", "score")
    [compared] = analysis["metrics"]
    assert compared["metric"] == "score"
    found = {arm["arm"]: (int(arm["values"]), arm["mean"]["mean"]) for arm in compared["arms"]}
    assigned = [arm.partition("@")[0] for arm in split.values()]
    for arm in ("control", "new"):
        assert found[arm] == (assigned.count(arm), pytest.approx(0.8))
    _json(mesh, "experiment", "stop", "scored")
