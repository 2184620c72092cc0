"""A runtime that starts engines from files which its host lacks, and prunes what it fetched."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_engine.scheduling.request import AdapterSource
from mlxmesh_engine.service.adapter_fetch import AdapterFetch
from mlxmesh_runtime.files.engine_files import FetchedEngineFiles
from mlxmesh_runtime.files.fetches import FetchLimits
from mlxmesh_shared.artifacts.manifest import Manifest
from mlxmesh_shared.errors import (
    ArtifactNotFound,
    DiskFull,
    InsufficientMemory,
    InvalidArgument,
    ModelFilesDamaged,
    NotImplementedYet,
)
from mlxmesh_shared.rpc.channels import open_channel
from tests.fakes.limited_disk import LimitedDisk
from tests.fakes.registry import InMemoryRegistry
from tests.fakes.transfer_hosts import MODEL_BYTES, Host, Network, Origin, content, write_files
from tests.integration.runtime.harness import (
    BACKOFF,
    FAILED,
    READY,
    RuntimeUnderTest,
    running_runtime,
)


@dataclass
class Rig:
    """A runtime with short limits, its host, and a model service."""

    network: Network
    origin: Origin
    host: Host
    runtime: RuntimeUnderTest
    manifest: Manifest
    folder: Path

    def rank(self, **engine: Any) -> Any:
        """Rank 1 of an engine of the same model."""
        files = pb.ModelFiles(digest=self.manifest.digest, weights_bytes=MODEL_BYTES)
        start = pb.StartEngineRequest(
            engine_id="e1", model="tiny", model_version=1, model_dir="/nowhere/model", files=files
        )
        start.MergeFrom(pb.StartEngineRequest(**engine))
        return self.runtime.stub.HostRank(
            pb.HostRankRequest(engine=start, rank=1, leader="127.0.0.1:1")
        )

    async def start(
        self, manifest: Manifest | None = None, weights_bytes: int = MODEL_BYTES
    ) -> None:
        await self.runtime.stub.StartEngine(
            pb.StartEngineRequest(
                engine_id="e1",
                model="tiny",
                model_version=1,
                model_dir="/nowhere/model",
                files=pb.ModelFiles(
                    digest=(manifest or self.manifest).digest, weights_bytes=weights_bytes
                ),
            )
        )


@pytest.fixture
def disk() -> LimitedDisk:
    return LimitedDisk(2**40)


@pytest.fixture
async def rig(tmp_path: Path, disk: LimitedDisk) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        network = Network(tmp_path, InMemoryRegistry(), stack)
        origin = Origin()
        folder = write_files(tmp_path / "source")
        manifest = origin.add(folder)
        await network.origin(origin)
        host = await network.host("a", disk=disk, limits=FetchLimits(stall_s=1))
        files = FetchedEngineFiles(host.held, host.sources, host.fetches)
        running = running_runtime(tmp_path / "a", files=files, fetches=host.fetches)
        runtime = await stack.enter_async_context(running)
        yield Rig(network, origin, host, runtime, manifest, folder)


async def test_an_engine_runs_from_fetched_files(rig: Rig) -> None:
    await rig.start()
    await rig.runtime.until_state(READY)
    fetched = content(rig.host.held.directory(rig.manifest.digest))
    # The fake engine counts its starts there.
    assert {name: fetched[name] for name in rig.manifest.digests} == content(rig.folder)


async def test_the_memory_for_files_that_are_not_here_is_checked(rig: Rig) -> None:
    with pytest.raises(InsufficientMemory):
        await rig.start(weights_bytes=2**39)


async def test_a_full_disk_refuses_the_start(rig: Rig, disk: LimitedDisk) -> None:
    disk.left_bytes = MODEL_BYTES - 1
    with pytest.raises(DiskFull, match="are free"):
        await rig.start()


async def test_a_disk_that_is_too_small_for_all_files_fails_the_engine_for_good(
    rig: Rig, disk: LimitedDisk
) -> None:
    disk.left_bytes = MODEL_BYTES
    await rig.start(weights_bytes=1)
    engine = await rig.runtime.until_state(FAILED)
    assert (engine.last_failure.code, engine.last_failure.reason) == (8, "DISK_FULL")
    assert engine.restarts == 0
    disk.left_bytes = 2**40
    await rig.start()
    await rig.runtime.until_state(READY)


async def test_files_that_were_changed_fail_the_engine_for_good(rig: Rig) -> None:
    (rig.folder / "model.safetensors").write_bytes(b"\1" * MODEL_BYTES)
    await rig.start()
    engine = await rig.runtime.until_state(FAILED)
    assert (engine.last_failure.code, engine.last_failure.reason) == (9, "MODEL_FILES_DAMAGED")
    assert "model.safetensors" in engine.last_failure.message


async def test_a_fetch_that_failed_is_tried_again(rig: Rig) -> None:
    digest = rig.manifest.digest
    manifest = rig.origin.manifests.pop(digest)
    await rig.start(manifest)
    engine = await rig.runtime.until_state(BACKOFF)
    assert (engine.last_failure.code, engine.last_failure.reason) == (14, "FETCH_FAILED")
    rig.origin.manifests[digest] = manifest
    await rig.runtime.until_state(READY)


async def test_an_engine_that_is_stopped_ends_its_fetch(rig: Rig) -> None:
    rig.origin.hold(0)
    await rig.start()
    while rig.host.fetches.progress(rig.manifest.digest) is None:
        await asyncio.sleep(0.01)
    await rig.runtime.stop()
    assert rig.host.fetches.progress(rig.manifest.digest) is None


async def test_a_prune_keeps_the_files_of_engines(rig: Rig) -> None:
    await rig.start()
    await rig.runtime.until_state(READY)
    pruned = await rig.runtime.stub.PruneFiles(pb.PruneFilesRequest())
    assert (pruned.files, pruned.freed_bytes) == (0, 0)
    await rig.runtime.stop()
    would = await rig.runtime.stub.PruneFiles(pb.PruneFilesRequest(dry_run=True))
    pruned = await rig.runtime.stub.PruneFiles(pb.PruneFilesRequest())
    assert pruned == would
    assert pruned.freed_bytes == rig.manifest.total_bytes
    assert not rig.host.held.directory(rig.manifest.digest).exists()


async def test_a_rank_runs_from_fetched_files_which_a_prune_keeps(rig: Rig) -> None:
    states = aiter(rig.rank())
    while not (state := await anext(states)).pid:
        pass
    fetched = content(rig.host.held.directory(rig.manifest.digest))
    assert {name: fetched[name] for name in rig.manifest.digests} == content(rig.folder)
    assert str(rig.host.held.directory(rig.manifest.digest)) in psutil.Process(state.pid).cmdline()
    pruned = await rig.runtime.stub.PruneFiles(pb.PruneFilesRequest())
    assert pruned.files == 0


async def test_a_rank_says_that_its_files_are_fetched_until_its_call_ends(rig: Rig) -> None:
    rig.origin.hold(0)
    call = rig.rank()
    states = aiter(call)
    while not (state := await anext(states)).fetch.total_bytes:
        pass
    assert (state.pid, state.fetch.total_bytes) == (0, rig.manifest.total_bytes)
    call.cancel()
    while rig.host.fetches.progress(rig.manifest.digest) is not None:
        await asyncio.sleep(0.01)


async def test_a_rank_whose_files_cannot_be_had_is_refused(rig: Rig, disk: LimitedDisk) -> None:
    with pytest.raises(InsufficientMemory):
        await anext(aiter(rig.rank(files=pb.ModelFiles(weights_bytes=2**39))))
    disk.left_bytes = MODEL_BYTES - 1
    with pytest.raises(DiskFull, match="are free"):
        await anext(aiter(rig.rank()))
    disk.left_bytes = 2**40
    (rig.folder / "model.safetensors").write_bytes(b"\1" * MODEL_BYTES)
    with pytest.raises(ModelFilesDamaged):
        async for _ in rig.rank():
            pass


async def test_an_engine_has_its_runtime_fetch_an_adapter(rig: Rig) -> None:
    adapter = rig.origin.add(write_files(rig.network.tmp_path / "adapter", seed=3), "a" * 64)
    async with open_channel(rig.runtime.address) as channel:
        fetch = AdapterFetch(channel)
        there = AdapterSource(adapter.digest, str(rig.folder))
        assert fetch.locate(there) == rig.folder
        elsewhere = AdapterSource(adapter.digest, "/nowhere/adapter")
        directory = await asyncio.to_thread(fetch.locate, elsewhere)
        assert content(directory) == content(rig.network.tmp_path / "adapter")
        with pytest.raises(ArtifactNotFound):
            await asyncio.to_thread(fetch.locate, AdapterSource("b" * 64, "/nowhere/adapter"))


async def test_without_a_digest_the_path_must_be_here(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match="is not a directory on the runtime's host"):
        await rig.runtime.start(model_dir="/nowhere/model")


async def test_a_runtime_that_fetches_nothing(tmp_path: Path) -> None:
    async with running_runtime(tmp_path) as runtime:
        with pytest.raises(NotImplementedYet):
            await runtime.stub.PruneFiles(pb.PruneFilesRequest())
