"""Real processes with data directories of their own: runtimes that fetch, and die while they do."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mlxmesh.model.v1 import model_pb2, model_pb2_grpc
from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_runtime.files.held_files import HeldFiles
from mlxmesh_shared.artifacts.local_file import CHUNK_BYTES
from mlxmesh_shared.artifacts.manifest import Manifest
from mlxmesh_shared.registry.directory import DirectoryRegistry
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.tiny_model import write_model as tiny_model
from tests.fakes.transfer_hosts import MODEL_BYTES, Network, Origin, content, write_files
from tests.integration.model.test_process import POCKET_MINI, running, until_registered
from tests.integration.runtime.harness import PATIENCE_S
from tests.integration.runtime.test_process import (
    RuntimeProcess,
    runtime_process,
)


def host_dir(tmp_path: Path, name: str) -> Path:
    """The data directory of a host, whose registry all hosts share."""
    (tmp_path / "registry").mkdir(exist_ok=True)
    data_dir = tmp_path / name
    data_dir.mkdir(exist_ok=True)
    if not (data_dir / "registry").exists():
        (data_dir / "registry").symlink_to(tmp_path / "registry")
    return data_dir


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Network]:
    async with AsyncExitStack() as stack:
        registry = DirectoryRegistry(tmp_path / "registry")
        stack.push_async_callback(registry.close)
        yield Network(tmp_path, registry, stack)


async def start(runtime: RuntimeProcess, manifest: Manifest) -> pb.Engine:
    """Starts an engine from a path that is on no host of the test."""
    request = pb.StartEngineRequest(
        engine_id="e1",
        model="tiny",
        model_version=1,
        model_dir="/nowhere/model",
        files=pb.ModelFiles(digest=manifest.digest, weights_bytes=MODEL_BYTES),
    )
    return (await runtime.stub.StartEngine(request)).engine


async def get(runtime: RuntimeProcess) -> pb.Engine:
    return (await runtime.stub.GetEngine(pb.GetEngineRequest(engine_id="e1"))).engine


async def until_fetched(runtime: RuntimeProcess, size_bytes: int) -> pb.Engine:
    async with asyncio.timeout(PATIENCE_S):
        while (engine := await get(runtime)).fetch.done_bytes < size_bytes:
            await asyncio.sleep(0.05)
    return engine


async def test_a_runtime_that_is_killed_while_it_fetches_goes_on_at_the_byte_reached(
    network: Network, tmp_path: Path
) -> None:
    files = Origin()
    manifest = files.add(folder := write_files(tmp_path / "source"))
    files.hold(3 * CHUNK_BYTES)
    origin = await network.origin(files)
    data_dir = host_dir(tmp_path, "a")
    async with runtime_process(data_dir) as runtime:
        engine = await start(runtime, manifest)
        assert engine.state == pb.ENGINE_STATE_STARTING
        engine = await until_fetched(runtime, 3 * CHUNK_BYTES)
        assert engine.state == pb.ENGINE_STATE_STARTING
        assert engine.fetch.total_bytes == manifest.total_bytes
        runtime.process.kill()
        await runtime.process.wait()
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    held = HeldFiles(data_dir)
    assert held.part(weights.remote).size_bytes == 3 * CHUNK_BYTES
    files.gate.set()
    before = origin.uploads.sent_of[weights.sha256]
    async with runtime_process(data_dir) as runtime:
        await start(runtime, manifest)
        engine = await runtime.until_ready(restarts=0)
        assert not engine.HasField("fetch")
        fetched = content(held.directory(manifest.digest))
        # The fake engine counts its starts there.
        assert {name: fetched[name] for name in manifest.digests} == content(folder)
    assert origin.uploads.sent_of[weights.sha256] - before == MODEL_BYTES - 3 * CHUNK_BYTES


@asynccontextmanager
async def loaded(
    network: Network, hosts: Sequence[Path], source: Path, request: model_pb2.LoadModelRequest
) -> AsyncIterator[model_pb2.ModelVersion]:
    """A real model service, runtimes and engines; each runtime has the files in its own place."""
    settings = {"MLXMESH_RUNTIME_SHARED_PATHS": "false", "MLXMESH_RUNTIME_SPARE_ENGINE": "false"}
    tmp_path = network.tmp_path
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running("mlxmesh_model", host_dir(tmp_path, "source")))
        for host in hosts:
            await stack.enter_async_context(running("mlxmesh_runtime", host, **settings))
        address = (await until_registered(network.registry, "model")).address
        async with asyncio.timeout(2 * PATIENCE_S):
            while len(await network.registry.resolve("runtime")) < len(hosts):
                await asyncio.sleep(0.1)
        channel = await stack.enter_async_context(open_channel(address))
        stub = model_pb2_grpc.ModelServiceStub(channel)
        await stub.RegisterModel(model_pb2.RegisterModelRequest(name="mini", directory=str(source)))
        [*_, last] = [message async for message in stub.LoadModel(request)]
        yield last.version


def assert_fetched(hosts: Sequence[Path], digest: str, source: Path) -> None:
    for host in hosts:
        fetched = HeldFiles(host).whole_directory(digest)
        assert fetched is not None
        for name, found in content(fetched).items():
            assert found == (source / name).read_bytes()


async def test_two_runtimes_load_a_model_that_neither_host_has(
    network: Network, tmp_path: Path
) -> None:
    hosts = [host_dir(tmp_path, name) for name in ("a", "b")]
    request = model_pb2.LoadModelRequest(model="mini", replicas=2)
    async with loaded(network, hosts, POCKET_MINI, request) as version:
        assert version.ready_replicas == 2
        assert not version.rejections
        assert_fetched(hosts, version.digest, POCKET_MINI)


async def test_a_group_runs_on_two_hosts_that_lack_its_model(
    network: Network, tmp_path: Path
) -> None:
    source = tiny_model(tmp_path / "model", vocab_size=1024)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(POCKET_MINI / file, source)
    hosts = [host_dir(tmp_path, name) for name in ("a", "b")]
    request = model_pb2.LoadModelRequest(model="mini", group_size=2)
    async with loaded(network, hosts, source, request) as version:
        assert version.ready_replicas == 1
        [group] = version.groups
        assert [each.rank for each in group.ranks] == [0, 1]
        found = {each.runtime_id for each in group.ranks}
        assert found == {each.instance_id for each in await network.registry.resolve("runtime")}
        assert_fetched(hosts, version.digest, source)
