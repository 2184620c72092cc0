"""A model loaded with a profile: its engines have the settings, and prompts its chat template."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_client import ContextTooLong, IllegalState, InvalidArgument, MeshClient
from tests.e2e.running_mesh import RunningMesh

LONG = "Once there was a fox. " * 12
CHAT: Any = [("user", "Hi")]


async def context_of(client: MeshClient) -> int:
    return (await client.get_model("pocket@1")).versions[0].context_tokens


def test_a_model_loaded_with_a_small_context_refuses_longer_prompts(mesh: RunningMesh) -> None:
    asyncio.run(_small_context(mesh))


async def _small_context(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        own = await context_of(client)
        assert own > 64
        before = await client.complete("pocket", prompt=LONG, max_tokens=4, ignore_eos=True)
        assert before.started.prompt_tokens > 60
        await client.set_profile("small", context_tokens=64, max_running=2)
        done = mesh.command("load", "pocket", "--profile", "small")
        assert "profile small@1" in done.stdout, done.stderr
        assert await context_of(client) == 64
        await _until_refused(client)
        short = await client.complete("pocket", prompt="A fox", max_tokens=4, ignore_eos=True)
        assert len(short.token_ids) == 4
        async with asyncio.timeout(30):  # the engine of before is drained meanwhile
            while [load.max_running for load in await _loads(mesh)] != [2]:
                await asyncio.sleep(0.1)
        with pytest.raises(IllegalState, match="pocket@1"):
            await client.delete_profile("small")
        await client.set_profile("large", context_tokens=own + 1)
        with pytest.raises(InvalidArgument) as refused:
            async for _ in client.load_model("pocket", profile="large"):
                pass
        assert refused.value.field == "profile"
        async for _ in client.load_model("pocket", profile="default"):
            pass
        assert await _until_accepted(client) == before.text
        await client.delete_profile("small")


async def _until_refused(client: MeshClient) -> None:
    """Generation follows the catalogue within moments."""
    async with asyncio.timeout(30):
        while True:
            try:
                await client.complete("pocket", prompt=LONG, max_tokens=4)
            except ContextTooLong as refused:
                assert " 64" in refused.message  # noqa: PT017  it may never be refused
                return


async def _until_accepted(client: MeshClient) -> str:
    async with asyncio.timeout(30):
        while True:
            with suppress(ContextTooLong):
                done = await client.complete("pocket", prompt=LONG, max_tokens=4, ignore_eos=True)
                return done.text


async def _loads(mesh: RunningMesh) -> list[Any]:
    async with MeshClient(mesh.address) as client:
        instances = await client.mesh_status()
    return [each.load for each in instances if each.service == "engine"]


def test_no_call_fails_while_replicas_get_other_settings(mesh: RunningMesh) -> None:
    asyncio.run(_calls_during_a_replacement(mesh))


async def _calls_during_a_replacement(mesh: RunningMesh) -> None:
    async with MeshClient(mesh.address) as client:
        await client.set_profile("few", max_running=3)
        finished = asyncio.Event()

        async def call() -> int:
            count = 0
            while not finished.is_set():
                done = await client.complete("pocket", prompt="Hi", max_tokens=8, ignore_eos=True)
                assert len(done.token_ids) == 8
                count += 1
            return count

        calling = [asyncio.create_task(call()) for _ in range(3)]
        async for _ in client.load_model("pocket", profile="few"):
            pass
        finished.set()
        assert sum(await asyncio.gather(*calling)) > 0


def test_the_template_of_a_profile_makes_the_prompt(mesh: RunningMesh, tmp_path: Path) -> None:
    asyncio.run(_template(mesh, tmp_path))


async def _template(mesh: RunningMesh, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    async with MeshClient(mesh.address) as client:
        own = (await client.count_tokens("pocket", messages=CHAT)).tokens
        plain = (await client.count_tokens("pocket", prompt="Hi")).tokens
        assert own != plain
        done = mesh.command("profiles", "set", "bare", "--template", str(file), "--json")
        assert json.loads(done.stdout)["revision"] == 1
        mesh.command("load", "pocket", "--profile", "bare")
        await _until_counted(client, plain)
        mesh.command("load", "pocket", "--profile", "default")
        await _until_counted(client, own)


async def _until_counted(client: MeshClient, tokens: int) -> None:
    """Generation follows the catalogue within moments."""
    async with asyncio.timeout(30):
        while (await client.count_tokens("pocket", messages=CHAT)).tokens != tokens:
            await asyncio.sleep(0.05)
