"""`mlxmesh status` and GetMeshStatus of a whole mesh, when all is well and once an engine died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from typing import Any

from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from tests.e2e.running_mesh import RunningMesh, mlxmesh, wait_until_serving

KINDS = ["gateway", "generation", "model", "runtime", "engine"]
GUARDED = {"generation", "model", "engine"}


def all_told(status: dict[str, Any]) -> bool:
    """Whether everybody has answered in time."""
    rows = status["instances"]
    guarded = {row["service"] for row in rows if "breaker" in row}
    serve = {row["state"] for row in rows} == {"serving"}
    return serve and guarded == GUARDED and bool(rows[-1].get("load", {}).get("max_running"))


def test_the_command_shows_every_process_with_load_and_breaker(mesh: RunningMesh) -> None:
    wait_until_serving(mesh)
    rows: list[dict[str, Any]] = mesh.until(all_told)["instances"]
    assert [row["service"] for row in rows] == KINDS
    guarded = {row["service"]: row["breaker"]["state"] for row in rows if "breaker" in row}
    assert guarded == dict.fromkeys(GUARDED, "closed")
    assert rows[-1]["load"]["max_running"] > 0

    table = mesh.command("status").stdout
    assert "breaker" in table
    assert "closed" in table


def by_address(mesh: RunningMesh) -> dict[str, Any]:
    return json.loads(mlxmesh("status", "--address", mesh.address, "--json").stdout)


def test_an_address_shows_the_same_instances_and_models(mesh: RunningMesh) -> None:
    here = mesh.until(all_told)
    deadline_s = time.monotonic() + 60
    while not all_told(there := by_address(mesh)):
        assert time.monotonic() < deadline_s, there
    keys = ("service", "instance_id", "address", "state")
    assert sorted([row[key] for key in keys] for row in there["instances"]) == sorted(
        [row[key] for key in keys] for row in here["instances"]
    )
    assert [model["name"] for model in there["models"]] == [
        model["name"] for model in here["models"]
    ]

    nobody = mlxmesh("status", "--address", "127.0.0.1:1", "--json")
    assert (nobody.returncode, nobody.stdout) == (3, "")


async def test_work_shows_where_it_runs(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        stream = client.generate("pocket", prompt="A", max_tokens=4000, ignore_eos=True)
        await anext(stream)
        # A process that misses its second counts as one that does not answer.
        async with asyncio.timeout(60):
            while not _shows_work(seen := await client.mesh_status()):
                await asyncio.sleep(0.1)
        await stream.aclose()
    by_service = {one.service: one for one in seen}
    assert by_service["generation"].outstanding == 1
    assert by_service["engine"].outstanding == by_service["engine"].load.running == 1


def _shows_work(seen: list[t.Instance]) -> bool:
    serving = [one.health for one in seen] == [t.HEALTH_SERVING] * 5
    return serving and any(one.load.running for one in seen)


async def test_a_dead_engine_is_followed_to_its_return(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        os.kill(mesh.pid("engine"), signal.SIGKILL)
        async with asyncio.timeout(60):
            while not await _answers(client):
                await asyncio.sleep(0.1)
            while await _engines(client) != [(t.HEALTH_SERVING, t.BREAKER_STATE_CLOSED)]:
                await asyncio.sleep(0.1)


async def _engines(client: MeshClient) -> list[tuple[int, int]]:
    """The health and the breaker of each."""
    engines = [one for one in await client.mesh_status() if one.service == "engine"]
    return [(one.health, one.breaker.state) for one in engines]


async def _answers(client: MeshClient) -> bool:
    with contextlib.suppress(MeshError):
        await client.complete("pocket", prompt="Hi", max_tokens=2, timeout_s=5)
        return True
    return False
