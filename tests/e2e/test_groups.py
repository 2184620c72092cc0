"""A model that two processes compute together, through the whole mesh."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh, processes_of, start_mesh, stop_mesh
from tests.fakes.engine_child import POCKET_MINI
from tests.fakes.group_engines import PATIENT_S
from tests.fakes.tiny_model import write_model

_PROMPTS = ([5, 6, 7], [*range(10, 50)])


def ranks_of(mesh: RunningMesh, name: str) -> dict[int, int]:
    """The process id of each rank above 0 of a model's group."""
    found: dict[int, int] = {}
    for process in processes_of(mesh.data_dir):
        line = process.cmdline()
        if "--group-rank" in line and name in line:
            found[int(line[line.index("--group-rank") + 1])] = process.pid
    return found


async def read(
    client: MeshClient, model: str, prompt: list[int], begun: asyncio.Event
) -> list[int]:
    token_ids: list[int] = []
    stream = client.generate(
        model, token_ids=prompt, max_tokens=60, temperature=0.9, seed=3, ignore_eos=True
    )
    async for event in stream:
        token_ids += event.token_ids
        if len(token_ids) > 5:
            begun.set()
    return token_ids


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A rank that is killed closes its connections: silence is not what ends the group here."""
    env = {"MLXMESH_ENGINE_GROUP_SILENCE_S": PATIENT_S}
    running = start_mesh(tmp_path_factory.mktemp("mesh"), env=env)
    yield running
    stop_mesh(running)


async def test_streams_outlive_a_rank_of_their_group(mesh: RunningMesh, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model", vocab_size=1024)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET_MINI / file, path)
    assert mesh.command("unload", "pocket").returncode == 0
    assert mesh.command("register", str(path), "--name", "wide").returncode == 0
    loaded = mesh.command("load", "wide", "--group", "2")
    assert loaded.returncode == 0, loaded.stderr
    assert "(1 replica of 2 ranks)\nranks 0 and 1 on runtime" in loaded.stdout
    listed = json.loads(mesh.command("models", "--json").stdout)["models"]
    [version] = next(model for model in listed if model["name"] == "wide")["versions"]
    assert [each["host"] for each in version["groups"][0]["ranks"]] == ["127.0.0.1"] * 2
    before = ranks_of(mesh, "wide")
    assert [*before] == [1]
    never = asyncio.Event()
    async with MeshClient(mesh.address, attempts=1) as client:
        alone = [await read(client, "wide", prompt, never) for prompt in _PROMPTS]
        begun = [asyncio.Event() for _ in _PROMPTS]
        reads = asyncio.gather(
            *(read(client, "wide", *each) for each in zip(_PROMPTS, begun, strict=True))
        )
        await asyncio.gather(*(event.wait() for event in begun))
        os.kill(before[1], signal.SIGKILL)
        assert await reads == alone
    async with asyncio.timeout(60):
        while [*(after := ranks_of(mesh, "wide"))] != [1] or after == before:
            await asyncio.sleep(0.1)
    assert mesh.command("unload", "wide").returncode == 0
    async with asyncio.timeout(30):
        while ranks_of(mesh, "wide"):
            await asyncio.sleep(0.1)
