"""kill -9 at every operation on files: nothing half-written is loadable, and no bytes are lost."""

import asyncio
import shutil
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh.model.v1 import model_pb2_grpc
from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.catalogue.lifecycle import ON_DISK
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import MeshSettings
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.artifact_rig import ArtifactRig, artifact_rig
from tests.fakes.hub import FakeHub, serving_hub
from tests.fakes.killed_artifacts import FINISHED, convert_quickly, killed_at, work
from tests.fakes.model_directory import write_model
from tests.integration.model.test_process import running, until_registered

MIB = 2**20
REPO_ID = "mlx/pocket"
# The short run kills at every eighth operation, and others for each kind of work.
STRIDE = 8


@pytest.fixture
def hub(tmp_path) -> Generator[FakeHub]:
    with serving_hub() as hub:
        hub.add(REPO_ID, write_model(tmp_path / "at-the-hub", rows=3 * MIB // 16))
        yield hub


@pytest.fixture
def gguf(tmp_path) -> Path:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(bytes(4096))
    return path


def bytes_on_disk(home: Path) -> dict[tuple[int, int], int]:
    found = [path.stat() for path in (home / "models").rglob("*") if path.is_file()]
    return {(stat.st_dev, stat.st_ino): stat.st_size for stat in found if stat.st_size}


async def empty_catalogue(tmp_path: Path) -> Path:
    """Made once, because making its tables takes longer than everything else."""
    path = tmp_path / "empty/model.db"
    await (await Store.open(SqliteFile(path))).close()
    return path


async def check_loadable_is_whole(rig: ArtifactRig) -> None:
    """Every version that could be loaded has its whole content."""
    for model in await rig.store.models():
        for version in model.versions:
            if version.state in ON_DISK:
                assert version.artifact is not None
                found = inspect(Path(version.artifact.directory))
                assert found.digest == version.artifact.digest


async def kill_everywhere(
    tmp_path: Path, hub: FakeHub, gguf: Path | None, first: int, stride: int
) -> int:
    """Kills at every stride-th operation and checks what a restart makes of it. Returns how many
    kills there were.
    """
    catalogue = await empty_catalogue(tmp_path)
    for kills, operation in enumerate(range(first, 10_000, stride)):
        home = tmp_path / str(operation)
        home.mkdir()
        shutil.copy(catalogue, home)
        if await killed_at(operation, home, hub.endpoint, gguf) == FINISHED:
            return kills
        async with artifact_rig(home, hub.endpoint, convert=convert_quickly) as rig:
            await check_loadable_is_whole(rig)
            await rig.recover()
            await work(rig, gguf)
            await check_loadable_is_whole(rig)
            await rig.pruning.prune(unfinished_after_s=0)
            [version] = (await rig.store.model("pocket")).versions
            assert version.artifact is not None
            directory = Path(version.artifact.directory)
            needed = sum(path.stat().st_size for path in directory.iterdir())
            assert sum(bytes_on_disk(home).values()) - stray(home) == needed, operation
            await rig.pruning.release(await rig.store.delete(ModelReference("pocket")))
            await rig.pruning.prune(unfinished_after_s=0)
            assert sum(bytes_on_disk(home).values()) - stray(home) == 0, operation
    raise AssertionError("the work never ends")


def stray(home: Path) -> int:
    """Bytes of the index of git object ids, which are 64 a file."""
    return sum(path.stat().st_size for path in (home / "models/_store/git").glob("*"))


@pytest.mark.parametrize("imports", [False, True])
async def test_killed_at_some_operations(tmp_path, hub, gguf, imports: bool):
    kills = await kill_everywhere(tmp_path, hub, gguf if imports else None, 2 + imports, STRIDE)
    assert kills >= 5


@pytest.mark.chaos
@pytest.mark.parametrize("imports", [False, True])
async def test_killed_at_every_operation(tmp_path, hub, gguf, imports: bool):
    kills = await kill_everywhere(tmp_path, hub, gguf if imports else None, 1, 1)
    assert kills >= 30


async def test_a_killed_service_continues_its_pull(tmp_path, hub):
    """The real process, killed in the middle of a download."""
    environment = {"MLXMESH_MODEL_HUB_ENDPOINT": hub.endpoint}
    registry = open_registry(MeshSettings(data_dir=tmp_path))
    request = pb.PullModelRequest(repo_id=REPO_ID)
    hub.gate.clear()
    async with running("mlxmesh_model", tmp_path, **environment) as model:
        instance = await until_registered(registry, "model")
        async with open_channel(instance.address) as channel:
            async for message in model_pb2_grpc.ModelServiceStub(channel).PullModel(request):
                if message.done_bytes >= MIB:
                    break
            model.send_signal(signal.SIGKILL)
            await model.wait()
    hub.gate.set()
    hub.ranges_seen.clear()
    async with running("mlxmesh_model", tmp_path, **environment), asyncio.timeout(60):
        while (again := await until_registered(registry, "model")) == instance:
            await asyncio.sleep(0.1)
        async with open_channel(again.address) as channel:
            stub = model_pb2_grpc.ModelServiceStub(channel)
            messages = [message async for message in stub.PullModel(request)]
    await registry.close()
    assert messages[0].done_bytes >= MIB
    assert [seen.split("=")[0] for seen in hub.ranges_seen] == ["model.safetensors bytes"]
    assert messages[-1].version.state == pb.VERSION_STATE_AVAILABLE
