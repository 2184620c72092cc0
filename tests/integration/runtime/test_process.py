"""The runtime as a process: it starts, and no engine outlives it however it ends."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mlxmesh.engine.v1 import engine_pb2, engine_pb2_grpc
from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.runtime.v1 import runtime_pb2_grpc as pb_grpc
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.rpc.channels import open_channel, wait_ready
from tests.fakes import engine_process
from tests.integration.runtime.harness import PATIENCE_S, READY, until_gone

HERE = Path(__file__).parent
WITH_FAKE_ENGINE = (
    str(HERE / "runtime_process.py"), engine_process.__file__, "--no-spare-engine",
)  # fmt: skip
POCKET_MINI = HERE.parents[2] / "deploy/demo-model/pocket-mini"


@dataclass
class RuntimeProcess:
    process: Process
    registry: DirectoryRegistry
    stub: pb_grpc.RuntimeServiceStub

    async def start_ready(
        self, model_dir: Path, options: pb.EngineOptions | None = None
    ) -> pb.Engine:
        request = pb.StartEngineRequest(
            engine_id="e1",
            model="tiny",
            model_version=1,
            model_dir=str(model_dir),
            options=options,
        )
        await self.stub.StartEngine(request)
        return await self.until_ready(restarts=0)

    async def until_ready(self, *, restarts: int) -> pb.Engine:
        async with asyncio.timeout(PATIENCE_S):
            async for change in self.stub.WatchEngines(pb.WatchEnginesRequest()):
                assert change.engine.restarts <= restarts, change.engine.last_failure
                if change.engine.state == READY and change.engine.restarts == restarts:
                    return change.engine
        raise AssertionError("the watch ended")

    async def registered(self) -> list[str]:
        found = [await self.registry.resolve(service) for service in ("runtime", "engine")]
        return [instance.instance_id for instances in found for instance in instances]


async def until_registered(registry: DirectoryRegistry) -> str:
    async with asyncio.timeout(PATIENCE_S):
        while not (instances := await registry.resolve("runtime")):
            await asyncio.sleep(0.05)
    return instances[0].address


@asynccontextmanager
async def runtime_process(
    data_dir: Path, program: Sequence[str] = WITH_FAKE_ENGINE
) -> AsyncIterator[RuntimeProcess]:
    repo = HERE.parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *program, "--data-dir", str(data_dir), stdin=PIPE, stderr=PIPE, cwd=repo
    )
    registry = DirectoryRegistry(data_dir / "registry")
    try:
        async with open_channel(await until_registered(registry)) as channel:
            await wait_ready(channel, PATIENCE_S)
            yield RuntimeProcess(process, registry, pb_grpc.RuntimeServiceStub(channel))
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        await registry.close()


async def test_sigterm_stops_the_engines_first(tmp_path: Path) -> None:
    model_dir = engine_process.write_model_dir(tmp_path / "model")
    async with runtime_process(tmp_path) as runtime:
        engine = await runtime.start_ready(model_dir)
        assert sorted(await runtime.registered()) == ["e1", "runtime-test"]
        runtime.process.terminate()
        async with asyncio.timeout(PATIENCE_S):
            assert await runtime.process.wait() == 0
        await until_gone(engine.pid)
        assert await runtime.registered() == []
        assert list((tmp_path / "registry").rglob("*.json")) == []


@pytest.mark.parametrize("frozen", [False, True])
async def test_killed_runtime_leaves_no_engine(tmp_path: Path, frozen: bool) -> None:
    model_dir = engine_process.write_model_dir(tmp_path / "model")
    async with runtime_process(tmp_path) as runtime:
        engine = await runtime.start_ready(model_dir)
        if frozen and sys.platform == "linux":
            os.kill(engine.pid, signal.SIGSTOP)  # cannot see the end of its stdin
        runtime.process.kill()
        await until_gone(engine.pid)
        # At once if a parent reaps the process, else when its lease ends.
        async with asyncio.timeout(PATIENCE_S):
            while await runtime.registered():
                await asyncio.sleep(0.1)


async def test_killed_runtime_leaves_no_spare_engine(tmp_path: Path) -> None:
    async with runtime_process(tmp_path, ("-m", "mlxmesh_runtime")) as runtime:
        (spare,) = psutil.Process(runtime.process.pid).children()
        runtime.process.kill()
        await until_gone(spare.pid)


async def test_bad_setting_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mlxmesh_runtime", "--data-dir", str(tmp_path), "--stop-grace", "1",
        stderr=PIPE,
    )  # fmt: skip
    _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr.decode().strip() == "unknown flag --stop-grace; did you mean --stop-grace-s?"


async def test_real_engine_serves_a_real_model(tmp_path: Path) -> None:
    async with runtime_process(tmp_path, ("-m", "mlxmesh_runtime")) as runtime:
        options = pb.EngineOptions(kv_cache_type="4bit")
        engine = await runtime.start_ready(POCKET_MINI, options)
        async with open_channel(engine.address) as channel:
            stub = engine_pb2_grpc.EngineServiceStub(channel)
            info = await stub.GetEngineInfo(engine_pb2.GetEngineInfoRequest())
        assert (info.engine_id, info.model, info.model_version) == ("e1", "tiny", 1)
        assert info.kv_cache_type == "4bit"
        os.kill(engine.pid, signal.SIGKILL)
        again = await runtime.until_ready(restarts=1)
        await runtime.stub.StopEngine(pb.StopEngineRequest(engine_id="e1"))
        await until_gone(again.pid)
