"""The model service as a process that is killed in the middle of a download, on both databases."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxmesh.model.v1 import hub_pb2 as pb
from mlxmesh.model.v1 import hub_pb2_grpc, model_pb2, model_pb2_grpc
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.hub import serving_hub
from tests.fakes.model_directory import write_model
from tests.integration.model.test_process import running, until_registered
from tests.integration.model.test_two_services import url_text

MIB = 2**20
REPO_ID = "mlx/pocket"


async def until(
    stub: hub_pb2_grpc.HubServiceStub, reached: Callable[[pb.Download], bool]
) -> pb.Download:
    while True:
        response = await stub.ListDownloads(pb.ListDownloadsRequest())
        if response.downloads and reached(response.downloads[0]):
            return response.downloads[0]
        await asyncio.sleep(0.05)


async def until_other(registry: Registry, before: Instance) -> Instance:
    while (again := await until_registered(registry, "model")) == before:
        await asyncio.sleep(0.1)
    return again


@pytest.mark.timeout(300)
async def test_a_download_survives_kill_9(tmp_path: Path, database: DatabaseUrl) -> None:
    registry = open_registry(MeshSettings(data_dir=tmp_path))
    with serving_hub() as hub:
        hub.add(REPO_ID, write_model(tmp_path / "at-the-hub", rows=3 * MIB // 16))
        environment = {
            "MLXMESH_MODEL_HUB_ENDPOINT": hub.endpoint,
            "MLXMESH_MODEL_DATABASE_URL": url_text(database),
        }
        hub.gate.clear()
        async with running("mlxmesh_model", tmp_path, **environment) as model:
            instance = await until_registered(registry, "model")
            async with open_channel(instance.address) as channel, asyncio.timeout(60):
                stub = hub_pb2_grpc.HubServiceStub(channel)
                await stub.StartDownload(pb.StartDownloadRequest(repo_id=REPO_ID))
                await until(stub, lambda each: each.done_bytes >= MIB)
                model.send_signal(signal.SIGKILL)
                await model.wait()
        hub.gate.set()
        hub.ranges_seen.clear()
        async with running("mlxmesh_model", tmp_path, **environment), asyncio.timeout(90):
            again = await until_other(registry, instance)
            async with open_channel(again.address) as channel:
                stub = hub_pb2_grpc.HubServiceStub(channel)
                completed = pb.DOWNLOAD_STATE_COMPLETED
                done = await until(stub, lambda each: each.state == completed)
                models = model_pb2_grpc.ModelServiceStub(channel)
                found = await models.GetModel(model_pb2.GetModelRequest(model="pocket"))
    await registry.close()
    assert done.version == 1
    assert done.attempt >= 2
    [version] = found.model.versions
    assert version.state == model_pb2.VERSION_STATE_AVAILABLE
    # Only the rest of the one file that was not whole.
    assert [seen.split("=")[0] for seen in hub.ranges_seen] == ["model.safetensors bytes"]
