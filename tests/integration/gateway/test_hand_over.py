"""A gateway that leaves, alone and while another one has begun on its port."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.process.startup import EXIT_WITH_PARENT
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.rpc.shared_port import CAN_SHARE
from tests.draining import drain
from tests.fakes.public_services import FakeGeneration, generation_server
from tests.fakes.serving import serving

AGE_S = 0.5


async def test_drain_is_heard_and_streams_finish(stand: Any) -> None:
    generation = await stand.generation()
    generation.go_on.clear()
    async with stand.running_gateway(drain_grace_s=60) as (address, leaving):
        client = await stand.client(address, attempts=1)
        stream = client.generate("pocket", prompt="a b c")
        events = [await anext(stream), await anext(stream)]
        await drain(address)
        assert leaving.is_set()
        async with asyncio.timeout(30):
            while await stand.registry.resolve("gateway"):
                await asyncio.sleep(0.01)
        generation.go_on.set()
        events += [event async for event in stream]
    assert "".join(event.text for event in events) == "a b c "


@pytest.mark.skipif(not CAN_SHARE, reason="two processes cannot share a port here")
async def test_no_call_is_lost_while_one_gateway_takes_over_from_another(tmp_path: Path) -> None:
    """Callers hold on to their connections, look at no health, and try nothing again."""
    errors: list[MeshError] = []
    calls = 0
    ended = asyncio.Event()

    async def keep_calling(address: str) -> None:
        nonlocal calls
        async with MeshClient(address, attempts=1) as client:
            while not ended.is_set():
                try:
                    await client.complete("pocket", prompt="a b c")
                    calls += 1
                except MeshError as error:
                    errors.append(error)
                await asyncio.sleep(0.02)  # for the gateway that starts meanwhile

    async with registry_with_generation(tmp_path) as registry, AsyncExitStack() as stack:
        gateway = partial(started_gateway, stack, registry, tmp_path)
        process, address = await gateway("127.0.0.1:0")
        callers = [asyncio.create_task(keep_calling(address)) for _ in range(8)]
        for _ in range(3):
            following, _ = await gateway(address, "--take-over")
            process.terminate()
            assert await process.wait() == 0
            process = following
        ended.set()
        await asyncio.gather(*callers)
        process.terminate()
        await process.wait()

    assert calls > 100
    assert errors == []


@asynccontextmanager
async def registry_with_generation(data_dir: Path) -> AsyncIterator[DirectoryRegistry]:
    registry = DirectoryRegistry(data_dir / "registry")
    server = generation_server(FakeGeneration(engine_id="generation-1"))
    async with serving(server) as address:
        await registry.register(Instance("generation", "generation-1", address, os.getpid()))
        try:
            yield registry
        finally:
            await registry.close()


async def started_gateway(
    stack: AsyncExitStack, registry: DirectoryRegistry, data_dir: Path, listen: str, *flags: str
) -> tuple[Process, str]:
    """A gateway process, once it is registered, and its address."""
    command = [sys.executable, "-m", "mlxmesh_gateway", "--data-dir", str(data_dir)]
    # Without HTTP: its default port may be that of a mesh of the developer, and would be shared.
    command += ["--listen", listen, "--http-listen", "", "--max-connection-age-s", str(AGE_S)]
    command += flags
    # It ends with the test's process, however that ends.
    process = await asyncio.create_subprocess_exec(
        *command, stdin=PIPE, stderr=DEVNULL, env={**os.environ, EXIT_WITH_PARENT: "1"}
    )
    stack.push_async_callback(end, process)
    async with asyncio.timeout(60):
        async for instances in registry.watch("gateway"):
            for instance in instances:
                if instance.pid == process.pid:
                    return process, instance.address
    raise AssertionError("the watch ended")


async def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
