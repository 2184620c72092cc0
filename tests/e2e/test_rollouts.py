"""Rollouts in a whole mesh, with the command: one is promoted under traffic, one is aborted."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh

POCKET = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket"
CALLERS = 3


def ok(mesh: RunningMesh, *arguments: str) -> str:
    result = mesh.command(*arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def versions(mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A second version of `pocket` with the same weights and other content."""
    copy = tmp_path_factory.mktemp("versions") / "pocket"
    shutil.copytree(POCKET, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "comment": "second"}))
    ok(mesh, "register", str(copy), "--name", "pocket")


def default_version(mesh: RunningMesh) -> int:
    models = json.loads(ok(mesh, "models", "--json"))["models"]
    return next(model["aliases"]["default"] for model in models if model["name"] == "pocket")


class Traffic:
    """Callers that ask one call after another; the versions that answered."""

    def __init__(self, client: MeshClient) -> None:
        self._client = client
        self._stopped = asyncio.Event()
        self.versions: list[int] = []

    async def _call(self) -> None:
        while not self._stopped.is_set():
            response = await self._client.complete("pocket", prompt="Hi", max_tokens=2)
            self.versions.append(response.started.model_version)

    async def during(self, mesh: RunningMesh, *arguments: str) -> tuple[int, str]:
        """The exit code and the output of a command that runs under this traffic."""
        calling = [asyncio.create_task(self._call()) for _ in range(CALLERS)]
        result = await asyncio.to_thread(mesh.command, *arguments)
        self._stopped.set()
        await asyncio.gather(*calling)
        return result.returncode, result.stdout + result.stderr


async def test_a_good_version_is_promoted_under_traffic(mesh: RunningMesh) -> None:
    start = ("rollout", "start", "pocket", "--to", "2", "--steps", "50,100", "--hold", "1s")
    more = ("--min-requests", "3", "--id", "good", "--watch")
    async with MeshClient(mesh.address) as client:
        traffic = Traffic(client)
        code, output = await traffic.during(mesh, *start, *more)
        answered = (await client.complete("pocket", prompt="Hi", max_tokens=2)).started
    assert code == 0, output
    assert "rollout good is started" in output
    assert {1, 2} == set(traffic.versions)
    assert "promoted" in output.splitlines()[-1]
    assert (default_version(mesh), answered.model_version) == (2, 2)
    shown: dict[str, Any] = json.loads(ok(mesh, "rollout", "show", "good", "--json"))
    weights = [change.get("weight", 0) for change in shown["history"]]
    assert weights == sorted(weights)
    assert {50, 100} <= set(weights)
    assert shown["state"] == "promoted"
    names = [event["name"] for event in mesh.until_event("rollout.promoted")]
    assert "rollout.started" in names


def test_an_aborted_one_leaves_the_alias_where_it_was(mesh: RunningMesh) -> None:
    start = ("rollout", "start", "pocket", "--to", "1", "--steps", "50,100", "--hold", "1h")
    started = json.loads(ok(mesh, *start, "--id", "bad", "--json"))
    assert started["rollout_id"] == "bad"
    end_s = time.monotonic() + 120
    while json.loads(ok(mesh, "rollout", "show", "bad", "--json"))["state"] != "progressing":
        assert time.monotonic() < end_s
        time.sleep(0.2)
    taken = mesh.command("rollout", "start", "pocket", "--to", "1")
    assert taken.returncode == 1
    assert "bad" in taken.stderr
    ok(mesh, "rollout", "pause", "bad")
    assert json.loads(ok(mesh, "rollout", "resume", "bad", "--json"))["state"] == "progressing"
    assert "aborted" in ok(mesh, "rollout", "abort", "bad")
    followed = mesh.command("rollout", "show", "bad", "--watch")
    assert followed.returncode == 1
    assert "aborted" in followed.stdout
    assert default_version(mesh) == 2
    mesh.until_event("rollout.aborted")
    again = mesh.command("rollout", "abort", "no-such-rollout")
    assert again.returncode == 1
    assert "no-such-rollout" in again.stderr
    listed = json.loads(ok(mesh, "rollout", "list", "pocket", "--json"))["rollouts"]
    assert [each["rollout_id"] for each in listed] == ["bad", "good"]
