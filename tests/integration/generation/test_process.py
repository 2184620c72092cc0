"""The generation service as a process."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mlxmesh.generation.v1.generation_pb2 import (
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import Draining, ServiceUnavailable
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.engine import FakeEngine
from tests.fakes.model_service import FakeModelService
from tests.integration.generation.harness import pocket


@asynccontextmanager
async def spawned(data_dir: Path, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mlxmesh_generation", "--data-dir", str(data_dir), *flags),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def registered(registry: DirectoryRegistry, service: str) -> Instance:
    async with asyncio.timeout(60):
        while True:
            for instance in await registry.resolve(service):
                return instance
            await asyncio.sleep(0.02)


async def test_it_serves_what_the_registry_leads_it_to_and_drains_on_sigterm(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    registry = DirectoryRegistry(tmp_path / "registry")
    models, engine = FakeModelService(), FakeEngine()
    models.put(pocket(), tokenizer_dir)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(registry.close)
        await stack.enter_async_context(models.running())
        await stack.enter_async_context(engine.running())
        for fake in (models.instance, engine.instance):
            await registry.register(_of_this_process(fake))
        process = await stack.enter_async_context(spawned(tmp_path, "--drain-grace-s", "0.5"))
        instance = await registered(registry, "generation")
        assert instance.pid == process.pid
        channel = await stack.enter_async_context(open_channel(instance.address))
        stub = GenerationServiceStub(channel)

        engine.options.step_s = 0.02
        call = stub.Generate(GenerateRequest(model="pocket", prompt="x", max_tokens=1000))
        reader = aiter(call)
        assert (await anext(reader)).HasField("started")
        await anext(reader)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(Draining):
            await read_to_the_end(reader)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert await registry.resolve("generation") == ()
        with pytest.raises(ServiceUnavailable):
            await stub.CountTokens(CountTokensRequest(model="pocket", prompt="x"))


async def read_to_the_end(reader: AsyncIterator[GenerateResponse]) -> None:
    async for _ in reader:
        pass


def _of_this_process(instance: Instance) -> Instance:
    fields = (instance.service, instance.instance_id, instance.address)
    return Instance(*fields, os.getpid(), instance.metadata)


async def test_a_setting_that_is_wrong_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    async with spawned(tmp_path, "--drain-grace-s", "-1") as process:
        _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1
    assert len(errors.decode().strip().splitlines()) == 1
    assert "drain" in errors.decode()
