"""Models that nobody loads: requests load them, idle ones are unloaded, others make room."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import ModelNotLoaded
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

POCKET_MINI = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket-mini"
NAMES = ("one", "two", "three")
ROOM = 2


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh with room for two engines, one of which the demo model has, and three more models."""
    folder = tmp_path_factory.mktemp("on-demand")
    env = {"MLXMESH_MODEL_MAX_ENGINES_PER_RUNTIME": str(ROOM)}
    running = start_mesh(folder / "data", env=env)
    for name in NAMES:
        shutil.copytree(POCKET_MINI, folder / name)
        result = running.command("register", str(folder / name), "--name", name)
        assert result.returncode == 0, result.stderr
    yield running
    stop_mesh(running)


async def answered(client: MeshClient, name: str) -> bool:
    response = await client.complete(name, prompt="What is 2 + 3?", max_tokens=4, timeout_s=120)
    return bool(response.token_ids)


async def desired(client: MeshClient, name: str) -> int:
    return (await client.get_model(name)).versions[0].desired_replicas


async def until_unloaded(client: MeshClient, name: str) -> None:
    while True:
        [version] = (await client.get_model(name)).versions
        if not version.desired_replicas and not version.ready_replicas:
            return
        await asyncio.sleep(0.1)


async def test_requests_load_models_and_the_least_recently_used_make_room(
    mesh: RunningMesh,
) -> None:
    async with MeshClient(mesh.address) as client:
        for name in (*NAMES, *NAMES):
            assert await answered(client, name)
        loaded = [name for name in ("pocket", *NAMES) if await desired(client, name)]
    assert len(loaded) <= ROOM
    mesh.until_event("model.evicted")


async def test_an_idle_model_is_unloaded_and_loaded_again(mesh: RunningMesh) -> None:
    result = mesh.command("models", "set", "one", "--idle", "2s")
    assert result.returncode == 0, result.stderr
    async with MeshClient(mesh.address) as client:
        assert await answered(client, "one")
        await until_unloaded(client, "one")
        await asyncio.to_thread(mesh.until_event, "model.idle_unloaded")
        assert await answered(client, "one")
    assert mesh.command("models", "set", "one", "--idle", "0").returncode == 0


async def test_a_request_that_waits_survives_the_model_service(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        for name in NAMES:
            await client.unload_model(name)
        pid = await asyncio.to_thread(mesh.pid, "model")
        asking = [asyncio.create_task(answered(client, name)) for name in NAMES]
        while not await desired(client, NAMES[0]):
            await asyncio.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        assert all(await asyncio.gather(*asking))


async def test_loading_on_demand_can_be_switched_off(mesh: RunningMesh) -> None:
    assert mesh.command("models", "set", "two", "--no-load-on-demand").returncode == 0
    async with MeshClient(mesh.address) as client:
        await client.unload_model("two")
        with pytest.raises(ModelNotLoaded):
            await client.complete("two", prompt="Hi", max_tokens=4, timeout_s=30)
        assert mesh.command("models", "set", "two", "--load-on-demand").returncode == 0
        assert await answered(client, "two")
