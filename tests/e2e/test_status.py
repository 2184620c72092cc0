"""`mlxmesh status` and GetMeshStatus of a whole mesh, when all is well and once an engine died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from typing import Any

from mlxmesh.telemetry.v1 import telemetry_pb2 as t
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from tests.e2e.running_mesh import RunningMesh, mlxmesh

KINDS = ["gateway", "generation", "model", "runtime", "engine"]


def test_the_command_shows_every_process_with_load_and_breaker(mesh: RunningMesh) -> None:
    rows: list[dict[str, Any]] = mesh.status()["instances"]
    assert [row["service"] for row in rows] == KINDS
    assert {row["state"] for row in rows} == {"serving"}
    guarded = {row["service"]: row["breaker"]["state"] for row in rows if "breaker" in row}
    assert guarded == dict.fromkeys(("generation", "model", "engine"), "closed")
    assert rows[-1]["load"]["max_running"] > 0

    table = mesh.command("status").stdout
    assert "breaker" in table
    assert "closed" in table


def test_an_address_shows_the_same_instances_and_models(mesh: RunningMesh) -> None:
    here = mesh.status()
    result = mlxmesh("status", "--address", mesh.address, "--json")
    there: dict[str, Any] = json.loads(result.stdout)
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
        seen = {one.service: one for one in await client.mesh_status()}
        await stream.aclose()
    assert [one.health for one in seen.values()] == [t.HEALTH_SERVING] * 5
    assert seen["generation"].outstanding == 1
    assert seen["engine"].outstanding == seen["engine"].load.running == 1


async def test_a_dead_engine_is_followed_to_its_return(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        os.kill(mesh.pid("engine"), signal.SIGKILL)
        async with asyncio.timeout(60):
            while not await _answers(client):
                await asyncio.sleep(0.1)
        engines = [one for one in await client.mesh_status() if one.service == "engine"]
    assert [(one.health, one.breaker.state) for one in engines] == [
        (t.HEALTH_SERVING, t.BREAKER_STATE_CLOSED)
    ]


async def _answers(client: MeshClient) -> bool:
    with contextlib.suppress(MeshError):
        await client.complete("pocket", prompt="Hi", max_tokens=2, timeout_s=5)
        return True
    return False
