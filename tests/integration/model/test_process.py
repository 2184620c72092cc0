"""The process as the launcher starts it, with a real runtime, engine and model."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1 import model_pb2_grpc
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.hub import serving_hub

POCKET_MINI = Path(__file__).resolve().parents[3] / "deploy/demo-model/pocket-mini"
READY = pb.VERSION_STATE_READY


@asynccontextmanager
async def running(
    module: str, data_dir: Path, **env: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A service process; it is killed at the end if it still runs."""
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


async def stderr_of(data_dir: Path, **env: str) -> tuple[int | None, list[str]]:
    """The exit code and output of a model service that cannot start."""
    async with running("mlxmesh_model", data_dir, **env) as model, asyncio.timeout(60):
        _, said = await model.communicate()
        return model.returncode, said.decode().splitlines()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "model.db cannot be used: file is not a database; restore a copy of it"),
        ("mysql://me:secret@host/db", "database_url begins with mysql; it must be like postgresql"),
        ("postgresql://me:secret@127.0.0.1:9/db", "127.0.0.1 cannot be reached"),
        ("sqlite:////proc/nowhere/model.db", "/proc/nowhere"),
    ],
)
async def test_an_unusable_catalogue_is_reported_in_one_line(tmp_path, url: str, why: str):
    (tmp_path / "model.db").write_bytes(b"not a database" * 100)
    code, lines = await stderr_of(tmp_path, MLXMESH_MODEL_DATABASE_URL=url)
    assert code == 1
    assert [why in line for line in lines] == [True], lines
    assert "secret" not in lines[0]


async def test_two_services_on_one_database_lose_no_call(tmp_path, database):
    """Each of two processes gets half of the calls, all for the same models."""
    is_file = isinstance(database, SqliteFile)
    url = f"sqlite:///{database.path}" if is_file else str(database)
    homes = [tmp_path / "a", tmp_path / "b?c"]
    async with AsyncExitStack() as stack:
        stubs: list[model_pb2_grpc.ModelServiceStub] = []
        for home in homes:
            running_model = running("mlxmesh_model", home, MLXMESH_MODEL_DATABASE_URL=url)
            await stack.enter_async_context(running_model)
            registry = open_registry(MeshSettings(data_dir=home))
            stack.push_async_callback(registry.close)
            instance = await until_registered(registry, "model")
            channel = await stack.enter_async_context(open_channel(instance.address))
            stubs.append(model_pb2_grpc.ModelServiceStub(channel))
        calls = [register_mini(stub, f"mini-{n}") for n in range(60) for stub in stubs]
        async with asyncio.timeout(90):
            responses = await asyncio.gather(*calls)
        assert {response.version for response in responses} == {1}
        assert len((await stubs[0].ListModels(pb.ListModelsRequest(page_size=100))).models) == 60


async def register_mini(stub: model_pb2_grpc.ModelServiceStub, name: str) -> Any:
    request = pb.RegisterModelRequest(name=name, directory=str(POCKET_MINI))
    return await stub.RegisterModel(request)


async def test_loaded_models_are_restored_after_a_killed_runtime(tmp_path, registry):
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


async def test_an_engine_loads_a_directory_of_links(tmp_path, registry):
    """The bundled model, pulled twice from a hub: both versions are the same files."""
    with serving_hub() as hub:
        hub.add("mlx/mini", POCKET_MINI)
        environment = {"MLXMESH_MODEL_HUB_ENDPOINT": hub.endpoint}
        async with (
            running("mlxmesh_model", tmp_path, **environment),
            running("mlxmesh_runtime", tmp_path),
            asyncio.timeout(110),
        ):
            instance = await until_registered(registry, "model")
            async with open_channel(instance.address) as channel:
                stub = model_pb2_grpc.ModelServiceStub(channel)
                for name in ("other", "mini"):
                    call = stub.PullModel(pb.PullModelRequest(repo_id="mlx/mini", name=name))
                    assert [message async for message in call][-1].version.version == 1
                await until_registered(registry, "runtime")
                assert (await load(stub)).state == READY
    weights = [tmp_path / f"models/{name}/1/model.safetensors" for name in ("other", "mini")]
    assert weights[0].samefile(weights[1])
    assert weights[0].read_bytes() == (POCKET_MINI / "model.safetensors").read_bytes()
