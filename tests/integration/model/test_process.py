"""The process as the launcher starts it, beside a real runtime with a real engine and model."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1 import model_pb2_grpc
from mlxmesh_shared.channels import open_channel
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.settings import MeshSettings

POCKET_MINI = Path(__file__).resolve().parents[3] / "deploy/demo-model/pocket-mini"
READY = pb.VERSION_STATE_READY


@asynccontextmanager
async def running(
    module: str, data_dir: Path, **env: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A service process; killed in the end if it still runs."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLXMESH_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, "--data-dir", str(data_dir), env=own | env,
        stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
async def registry(tmp_path) -> AsyncGenerator[Registry]:
    registry = open_registry(MeshSettings(data_dir=tmp_path))
    yield registry
    await registry.close()


async def until_registered(registry: Registry, service: str) -> Instance:
    async with asyncio.timeout(60):
        async for instances in registry.watch(service):
            if instances:
                return instances[0]
    raise AssertionError("the watch ended")


async def load(stub: model_pb2_grpc.ModelServiceStub) -> pb.ModelVersion:
    call = stub.LoadModel(pb.LoadModelRequest(model="mini"))
    return [message async for message in call][-1].version


async def test_loaded_models_come_back_after_a_killed_runtime(tmp_path, registry):
    async with running("mlxmesh_model", tmp_path) as model:
        instance = await until_registered(registry, "model")
        async with open_channel(instance.address) as channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            await stub.RegisterModel(
                pb.RegisterModelRequest(name="mini", directory=str(POCKET_MINI))
            )
            async with running("mlxmesh_runtime", tmp_path) as runtime:
                await until_registered(registry, "runtime")
                assert (await load(stub)).state == READY
                runtime.kill()
                await runtime.wait()
            async with running("mlxmesh_runtime", tmp_path) as runtime, asyncio.timeout(90):
                watch = stub.WatchModels(pb.WatchModelsRequest())
                lost = False
                async for change in watch:
                    ready = bool(change.model.versions and change.model.versions[0].ready_replicas)
                    lost = lost or (change.HasField("model") and not ready)
                    if lost and ready:
                        break
                await stub.UnloadModel(pb.UnloadModelRequest(model="mini"))
                runtime.send_signal(signal.SIGTERM)
                assert await runtime.wait() == 0
        model.send_signal(signal.SIGTERM)
        assert await model.wait() == 0
        assert await registry.resolve("model") == ()


async def test_it_is_serving_when_it_is_registered(tmp_path, registry):
    async with running("mlxmesh_model", tmp_path):
        instance = await until_registered(registry, "model")
        async with open_channel(instance.address) as channel:
            request = health_pb2.HealthCheckRequest(service="mlxmesh.model.v1.ModelService")
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(request)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_it_ends_with_its_parent(tmp_path, registry):
    async with running("mlxmesh_model", tmp_path, MLXMESH_EXIT_WITH_PARENT="1") as model:
        await until_registered(registry, "model")
        assert model.stdin is not None
        model.stdin.close()
        assert await model.wait() == 0


async def test_an_unknown_setting_is_one_line_and_exit_code_1(tmp_path):
    async with running("mlxmesh_model", tmp_path, MLXMESH_MODEL_LISTN="x") as model:
        _, stderr = await model.communicate()
        assert model.returncode == 1
        assert b"MLXMESH_MODEL_LISTEN" in stderr
        assert stderr.count(b"\n") == 1
