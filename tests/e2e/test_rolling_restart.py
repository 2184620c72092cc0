"""Processes leave and are replaced under load, and no call notices."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, start_mesh, stop_mesh

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
                    self.errors.append(f"CountTokens: {error!r}")
                await asyncio.sleep(0.02)

    async def stream(self, address: str, story: str) -> None:
        async with MeshClient(address, attempts=1) as client:
            while not self.ended.is_set():
                try:
                    if await tokens_of(client, story) != self.reference[story]:
                        self.errors.append("Generate: other tokens than undisturbed")
                    self.streams += 1
                except Exception as error:  # noqa: BLE001
                    self.errors.append(f"Generate: {error!r}")


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
    await asyncio.to_thread(stop_mesh, mesh)
