"""Processes leave and are replaced under load, and no call notices."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, mlxmesh, start_mesh, stop_mesh, until_used

STORIES = ("Tell me a long story about a fox.", "Tell me a long story about a bear.")
TOKENS = 120
SEEDED = {"temperature": 0.8, "seed": 7}
SERVICES = ("runtime", "model", "generation", "gateway")


@dataclass
class Load:
    """What callers that never try again saw."""

    reference: dict[str, list[int]]
    counts: int = 0
    streams: int = 0
    errors: list[str] = field(default_factory=list[str])
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def count(self, address: str) -> None:
        async with MeshClient(address, attempts=1) as client:
            while not self.ended.is_set():
                try:
                    await client.count_tokens("pocket", prompt="Hi there")
                    self.counts += 1
                except Exception as error:  # noqa: BLE001  every kind is a lost call
                    self.errors.append(f"CountTokens: {error!r} {error.__cause__!r}")
                await asyncio.sleep(0.02)

    async def stream(self, address: str, story: str) -> None:
        async with MeshClient(address, attempts=1) as client:
            while not self.ended.is_set():
                try:
                    if await tokens_of(client, story) != self.reference[story]:
                        self.errors.append("Generate: other tokens than undisturbed")
                    self.streams += 1
                except Exception as error:  # noqa: BLE001
                    self.errors.append(f"Generate: {error!r} {error.__cause__!r}")


async def tokens_of(client: MeshClient, story: str) -> list[int]:
    """One whole stream; the story about the bear is sampled."""
    tokens: list[int] = []
    finished = False
    sampling = SEEDED if story == STORIES[1] else {}
    async for event in client.generate(
        "pocket", messages=[("user", story)], max_tokens=TOKENS, ignore_eos=True, **sampling
    ):
        tokens += event.token_ids
        finished = event.finished is not None
    assert finished
    return tokens


@asynccontextmanager
async def load_on(mesh: RunningMesh) -> AsyncIterator[Load]:
    """Calls without a pause from several clients; the end checks that none failed."""
    async with MeshClient(mesh.address) as client:
        load = Load({story: await tokens_of(client, story) for story in STORIES})
    async with asyncio.TaskGroup() as callers:
        for story in STORIES:
            callers.create_task(load.count(mesh.address))
            callers.create_task(load.stream(mesh.address, story))
        try:
            yield load
        finally:
            load.ended.set()
    assert load.errors == []


async def command(mesh: RunningMesh, *arguments: str) -> dict[str, object]:
    """The JSON that a command prints."""
    result = await asyncio.to_thread(mesh.command, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def pids(mesh: RunningMesh) -> dict[str, int]:
    return {row["instance_id"]: row["pid"] for row in mesh.status()["instances"]}


@pytest.fixture
def quick_handover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXMESH_GATEWAY_MAX_CONNECTION_AGE_S", "2")


async def test_the_whole_mesh_is_replaced_twice_and_no_call_fails(
    tmp_path: Path, quick_handover: None
) -> None:
    mesh = await asyncio.to_thread(start_mesh, tmp_path)
    try:
        before = await asyncio.to_thread(pids, mesh)
        async with load_on(mesh) as load:
            for _ in range(2):
                answer = await command(mesh, "restart", "--rolling")
                assert answer == {"restarted": list(SERVICES)}
            during = load.counts, load.streams
            await asyncio.sleep(1)
        assert min(during) > 0
        after = await asyncio.to_thread(pids, mesh)
        assert len(after) == len(before)
        assert not {*before.values()} & {*after.values()}
    finally:
        await asyncio.to_thread(stop_mesh, mesh)


async def test_a_drained_generation_instance_loses_no_call(tmp_path: Path) -> None:
    mesh = await asyncio.to_thread(start_mesh, tmp_path)
    [restarted] = await instances(mesh, "generation", 1)
    async with second_generation(mesh):
        both = await instances(mesh, "generation", 2)
        await used(mesh, "generation", 2)
        async with load_on(mesh) as load:
            await drained(mesh, restarted)
            await instances(mesh, "generation", 2)
            await used(mesh, "generation", 2)
            [other] = both.keys() - {restarted}
            await drained(mesh, other)
            await more_streams(load)
    await asyncio.to_thread(stop_mesh, mesh)


async def test_a_drained_engine_loses_no_call(tmp_path: Path) -> None:
    mesh = await asyncio.to_thread(start_mesh, tmp_path, "--replicas", "2")
    engines = await instances(mesh, "engine", 2)
    await used(mesh, "engine", 2)
    async with load_on(mesh) as load:
        for leaving in engines:
            await drained(mesh, leaving)
            await instances(mesh, "engine", 2)
            await used(mesh, "engine", 2)
            await more_streams(load)
    assert not set(engines.values()) & set((await instances(mesh, "engine", 2)).values())
    await asyncio.to_thread(stop_mesh, mesh)


async def test_unloading_lets_streams_finish(tmp_path: Path) -> None:
    mesh = await asyncio.to_thread(start_mesh, tmp_path)
    async with MeshClient(mesh.address, attempts=1) as client:
        undisturbed = await tokens_of(client, STORIES[0])
        streams = [asyncio.create_task(tokens_of(client, STORIES[0])) for _ in range(4)]
        await asyncio.sleep(0.1)
        await client.unload_model("pocket")
        assert await asyncio.gather(*streams) == [undisturbed] * 4
    await asyncio.to_thread(stop_mesh, mesh)


async def test_commands_say_what_is_wrong(mesh: RunningMesh, tmp_path: Path) -> None:
    unknown = await asyncio.to_thread(mesh.command, "drain", "nobody")
    assert unknown.returncode == 1
    assert "no instance 'nobody'; available: gateway-" in unknown.stderr
    several = await asyncio.to_thread(mesh.command, "drain", "g")
    assert "'g' is ambiguous; it matches: gateway-" in several.stderr
    nowhere = await asyncio.to_thread(mlxmesh, "restart", "--data-dir", str(tmp_path))
    assert f"no mesh runs in {tmp_path}" in nowhere.stderr


@asynccontextmanager
async def second_generation(mesh: RunningMesh) -> AsyncIterator[None]:
    """A generation instance that nobody starts again, beside the launcher's."""
    command = [sys.executable, "-m", "mlxmesh_generation", "--data-dir", str(mesh.data_dir)]
    with (mesh.data_dir / "logs" / "second-generation.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log)
    try:
        yield
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def instances(mesh: RunningMesh, service: str, at_least: int) -> dict[str, int]:
    """The process ids of a service's instances by id, once so many serve."""
    async with asyncio.timeout(60):
        while True:
            rows = (await asyncio.to_thread(mesh.status))["instances"]
            found = [row for row in rows if (row["service"], row["state"]) == (service, "serving")]
            if len(found) >= at_least:
                return {row["instance_id"]: row["pid"] for row in found}


async def used(mesh: RunningMesh, service: str, count: int) -> None:
    """Returns once calls may go to so many instances."""
    async with MeshClient(mesh.address) as client:
        await until_used(client, service, count)


async def drained(mesh: RunningMesh, instance_id: str) -> None:
    answer = await command(mesh, "drain", instance_id)
    assert answer["gone"]
    with contextlib.suppress(psutil.NoSuchProcess):
        # It has ended; whoever started it may not have looked yet.
        assert psutil.Process(int(str(answer["pid"]))).status() == psutil.STATUS_ZOMBIE


async def more_streams(load: Load) -> None:
    """Returns once two more streams have ended."""
    before = load.streams
    async with asyncio.timeout(60):
        while load.streams < before + 2:
            await asyncio.sleep(0.05)
