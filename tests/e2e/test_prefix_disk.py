"""An engine that was killed begins with the prefixes, of 8 bits, that it had written to disk."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from stat import S_IMODE
from typing import Any

from mlxmesh_client import MeshClient
from tests.e2e.running_mesh import RunningMesh

PROMPT = "Once there was a fox who knew every path of the wood. " * 12


def test_a_killed_engine_finds_its_prefixes_again(mesh: RunningMesh) -> None:
    asyncio.run(_killed(mesh))


async def _killed(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        await client.set_profile("disk", prefix_disk_bytes=2**28, kv_cache_type="8bit")
        async for _ in client.load_model("pocket", profile="disk"):
            pass
        first = await _complete(client)
        files = await _written(mesh, at_least=first.started.prompt_tokens // 32)
        assert {S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        before = _pids(mesh)
        os.kill(before[0], signal.SIGKILL)
        async with asyncio.timeout(60):
            while _pids(mesh) in ([], before):
                await asyncio.sleep(0.1)
        second = await _complete(client)
        assert second.token_ids == first.token_ids
        cached = second.finished.usage.cached_tokens
        assert cached == (first.started.prompt_tokens - 1) // 32 * 32 > 0
        async with asyncio.timeout(60):
            while not all(sizes := await _sizes_on_disk(client)) or len(sizes) != 1:
                await asyncio.sleep(0.1)
        async for _ in client.load_model("pocket", profile="default"):
            pass


async def _sizes_on_disk(client: MeshClient) -> list[int]:
    """Of each engine's prefixes; zero while it does not answer."""
    engines = [each for each in await client.mesh_status() if each.service == "engine"]
    return [each.load.prefix_disk_bytes for each in engines]


async def _complete(client: MeshClient) -> Any:
    return await client.complete("pocket", prompt=PROMPT, max_tokens=8, ignore_eos=True)


async def _written(mesh: RunningMesh, *, at_least: int) -> list[Path]:
    async with asyncio.timeout(60):
        while True:
            files = list(mesh.data_dir.glob("prefixes/*/*.prefix"))
            if len(files) >= at_least:
                return files
            await asyncio.sleep(0.1)


def _pids(mesh: RunningMesh) -> list[int]:
    return [row["pid"] for row in mesh.status()["instances"] if row["service"] == "engine"]
