"""Files that travel between hosts: over real gRPC, with data directories of their own."""

import asyncio
from pathlib import Path

import pytest

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_runtime.engine_record import EngineSpec, ModelFiles
from mlxmesh_runtime.files.engine_files import FetchedEngineFiles
from mlxmesh_runtime.files.fetches import FetchLimits
from mlxmesh_runtime.files.wanted import Wanted
from mlxmesh_shared.artifacts.local_file import CHUNK_BYTES
from mlxmesh_shared.artifacts.manifest import Manifest
from mlxmesh_shared.errors import ArtifactNotFound, DiskFull, FetchFailed, ModelFilesDamaged
from tests.fakes.limited_disk import LimitedDisk
from tests.fakes.transfer_hosts import (
    MODEL_BYTES,
    Host,
    Network,
    Origin,
    content,
    write_files,
)


async def until_bytes(host: Host, manifest: Manifest, size_bytes: int) -> None:
    """Waits until a host has so much of a version."""
    async with asyncio.timeout(60):
        while True:
            progress = host.fetches.progress(manifest.digest)
            if progress is not None and progress.done_bytes >= size_bytes:
                return
            await asyncio.sleep(0.01)


async def test_a_host_without_the_files_gets_them(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin, host = await network.origin(files), await network.host("a")
    directory = await host.fetch(manifest)
    assert content(directory) == content(folder)
    assert origin.uploads.sent_bytes == manifest.total_bytes
    started, ended = host.events
    assert isinstance(started, events.ModelFetchStarted)
    assert started.missing_bytes == started.total_bytes == manifest.total_bytes
    assert isinstance(ended, events.ModelFetched)
    assert ended.model_service_bytes == manifest.total_bytes
    assert (ended.model, ended.version, ended.runtime_id) == ("tiny", 1, "runtime-a")


async def test_what_is_here_is_not_fetched_again(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin, host = await network.origin(files), await network.host("a")
    await host.fetch(manifest)
    await origin.stop()
    assert content(await host.fetch(manifest)) == content(folder)
    # Another version with the same weights fetches only what differs.
    other = write_files(network.tmp_path / "other")
    (other / "tokenizer.json").write_text('{"version": "2"}')
    again = await network.origin(files, "model-2")
    await host.fetch(files.add(other))
    assert again.uploads.sent_bytes == len('{"version": "2"}')


async def test_all_that_want_one_version_share_its_fetch(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin, host = await network.origin(files), await network.host("a")
    directories = await asyncio.gather(*(host.fetch(manifest) for _ in range(4)))
    assert len(set(directories)) == 1
    assert origin.uploads.sent_bytes == manifest.total_bytes


async def test_two_processes_of_one_host_fetch_a_file_once(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    """As during a hand-over, when two runtimes have one data directory."""
    origin = await network.origin(files)
    one, two = Host(network.registry, network.tmp_path / "a"), await network.host("a")
    directories = await asyncio.gather(one.fetch(manifest), two.fetch(manifest))
    assert content(directories[0]) == content(directories[1]) == content(folder)
    assert origin.uploads.sent_bytes == manifest.total_bytes
    await one.close()


async def test_the_last_one_that_gives_up_ends_the_fetch(
    network: Network, files: Origin, manifest: Manifest
) -> None:
    files.hold(2 * CHUNK_BYTES)
    await network.origin(files)
    host = await network.host("a")
    one, two = (asyncio.create_task(host.fetch(manifest)) for _ in range(2))
    await until_bytes(host, manifest, CHUNK_BYTES)
    one.cancel()
    await asyncio.wait({one})
    assert host.fetches.progress(manifest.digest) is not None
    two.cancel()
    await asyncio.wait({two})
    assert host.fetches.progress(manifest.digest) is None


async def test_five_hosts_cost_the_source_far_less_than_five_uploads(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin = await network.origin(files)
    hosts = [await network.host(f"host-{number}") for number in range(5)]
    directories = await asyncio.gather(*(host.fetch(manifest) for host in hosts))
    assert all(content(directory) == content(folder) for directory in directories)
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    assert origin.uploads.sent_of[weights.sha256] <= 2 * MODEL_BYTES
    sent = [origin, *(host.served for host in hosts)]
    assert sum(each.uploads.sent_of[weights.sha256] for each in sent) <= 5 * MODEL_BYTES


async def test_files_come_from_a_runtime_that_has_them(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin, first = await network.origin(files), await network.host("a")
    await first.fetch(manifest)
    await origin.stop()
    second = await network.host("b")
    assert content(await second.fetch(manifest)) == content(folder)
    assert first.served.uploads.sent_bytes == manifest.total_bytes


async def test_a_host_follows_one_that_still_fetches(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    files.hold(3 * CHUNK_BYTES)
    origin = await network.origin(files)
    first, second = await network.host("a"), await network.host("b")
    fetching = asyncio.create_task(first.fetch(manifest))
    await until_bytes(first, manifest, 3 * CHUNK_BYTES)
    following = asyncio.create_task(second.fetch(manifest))
    await until_bytes(second, manifest, 3 * CHUNK_BYTES)
    files.gate.set()
    await asyncio.gather(fetching, following)
    assert content(await following) == content(folder)
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    assert first.served.uploads.sent_of[weights.sha256] >= 3 * CHUNK_BYTES
    assert origin.uploads.sent_of[weights.sha256] < 2 * MODEL_BYTES


async def test_a_fetch_goes_on_at_the_byte_reached_when_its_source_died(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    files.hold(3 * CHUNK_BYTES)
    first, host = await network.origin(files), await network.host("a")
    fetching = asyncio.create_task(host.fetch(manifest))
    await until_bytes(host, manifest, 3 * CHUNK_BYTES)
    await first.stop()
    files.gate.set()
    second = await network.origin(files, "model-2")
    assert content(await fetching) == content(folder)
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    assert second.uploads.sent_of[weights.sha256] == MODEL_BYTES - 3 * CHUNK_BYTES


async def test_a_fetch_without_a_source_fails_and_goes_on_later(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    files.hold(2 * CHUNK_BYTES)
    first = await network.origin(files)
    host = await network.host("a", limits=FetchLimits(stall_s=2))
    fetching = asyncio.create_task(host.fetch(manifest))
    await until_bytes(host, manifest, 2 * CHUNK_BYTES)
    await first.stop()
    with pytest.raises(FetchFailed, match=r"no process sent any of it for 2 s.*is kept"):
        await fetching
    assert isinstance(host.events[-1], events.ModelFetchFailed)
    assert host.events[-1].failure.reason == "FETCH_FAILED"
    files.gate.set()
    second = await network.origin(files, "model-2")
    assert content(await host.fetch(manifest)) == content(folder)
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    assert second.uploads.sent_of[weights.sha256] == MODEL_BYTES - 2 * CHUNK_BYTES


async def test_nobody_knows_the_digest(network: Network, files: Origin) -> None:
    await network.origin(files)
    host = await network.host("a")
    with pytest.raises(ArtifactNotFound):
        await host.fetches.fetch(Wanted("0" * 64, "tiny", 1))


async def test_wrong_bytes_of_a_runtime_are_replaced_by_the_model_services(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin, bad = await network.origin(files), await network.host("bad")
    await bad.fetch(manifest)
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    blob = bad.held.blobs.blob(weights.sha256)
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(CHUNK_BYTES + 7)
        file.write(b"wrong")
    before = origin.uploads.sent_of[weights.sha256]
    host = await network.host("a")
    assert content(await host.fetch(manifest)) == content(folder)
    assert bad.served.uploads.sent_of[weights.sha256] == MODEL_BYTES
    assert origin.uploads.sent_of[weights.sha256] - before == MODEL_BYTES


async def test_wrong_bytes_of_the_model_service_are_refused(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    weights = next(file for file in manifest.files if file.name == "model.safetensors")

    (folder / "model.safetensors").write_bytes(b"\1" * MODEL_BYTES)
    await network.origin(files)
    host = await network.host("a")
    with pytest.raises(ModelFilesDamaged, match=r"model\.safetensors .*differs from its digest"):
        await host.fetch(manifest)
    assert not host.held.directory(manifest.digest).exists()
    assert not host.held.blobs.blob(weights.sha256).exists()
    assert host.held.part(weights.remote).size_bytes == 0


async def test_a_list_of_files_that_is_not_the_digests_is_refused(
    network: Network, files: Origin, folder: Path
) -> None:
    files.add(folder, "0" * 64)
    await network.origin(files)
    host = await network.host("a")
    with pytest.raises(FetchFailed, match="do not have the digest"):
        await host.fetches.fetch(Wanted("0" * 64, "tiny", 1))


async def test_a_full_disk_is_refused_before_the_first_byte(
    network: Network, files: Origin, manifest: Manifest
) -> None:
    origin = await network.origin(files)
    host = await network.host("a", disk=LimitedDisk(1000))
    needed = f"{manifest.total_bytes:,} more bytes are needed, and 1,000 are free"
    with pytest.raises(DiskFull, match=needed):
        await host.fetch(manifest)
    assert origin.uploads.sent_bytes == 0
    with pytest.raises(DiskFull):
        host.fetches.check_space(MODEL_BYTES)


async def test_a_disk_that_fills_up_keeps_what_arrived(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin = await network.origin(files)
    disk = LimitedDisk(3 * CHUNK_BYTES, told_bytes=2**40)
    host = await network.host("a", disk=disk)
    with pytest.raises(DiskFull, match=r"more bytes are needed, and .* are free; what arrived is"):
        await host.fetch(manifest)
    disk.left_bytes = 2**40
    before = origin.uploads.sent_bytes
    assert content(await host.fetch(manifest)) == content(folder)
    assert origin.uploads.sent_bytes - before < manifest.total_bytes - 2 * CHUNK_BYTES


async def test_a_limit_of_fetched_bytes(
    network: Network, files: Origin, manifest: Manifest
) -> None:
    await network.origin(files)
    limits = FetchLimits(stall_s=5, max_bytes=MODEL_BYTES + CHUNK_BYTES)
    host = await network.host("a", limits=limits)
    await host.fetch(manifest)
    other = files.add(write_files(network.tmp_path / "other", seed=2))
    with pytest.raises(DiskFull, match=r"fetched_files_bytes.*mlxmesh artifacts prune"):
        await host.fetch(other)
    await host.fetches.prune([other.digest], dry_run=False)
    await host.fetch(other)


async def test_a_prune_removes_what_nobody_needs(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    await network.origin(files)
    host = await network.host("a")
    kept = await host.fetch(manifest)
    other = write_files(network.tmp_path / "other")
    (other / "tokenizer.json").write_text('{"version": "2"}')
    removed = await host.fetch(files.add(other))
    would = await host.fetches.prune([manifest.digest], dry_run=True)
    assert content(removed)
    pruned = await host.fetches.prune([manifest.digest], dry_run=False)
    assert pruned == would
    assert (pruned.files, pruned.freed_bytes) == (1, len('{"version": "2"}'))
    assert not removed.exists()
    assert content(kept) == content(folder)
    assert (await host.fetches.prune([manifest.digest], dry_run=False)).files == 0


async def test_a_prune_leaves_running_fetches_alone(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    files.hold(2 * CHUNK_BYTES)
    await network.origin(files)
    host = await network.host("a")
    fetching = asyncio.create_task(host.fetch(manifest))
    await until_bytes(host, manifest, 2 * CHUNK_BYTES)
    assert (await host.fetches.prune([], dry_run=False)).files == 0
    files.gate.set()
    assert content(await fetching) == content(folder)


def spec_of(manifest: Manifest, model_dir: Path) -> EngineSpec:
    return EngineSpec(
        engine_id="e1",
        model="tiny",
        model_version=1,
        model_dir=model_dir,
        files=ModelFiles(manifest.digest, MODEL_BYTES),
    )


async def test_the_same_files_at_the_path_are_used_as_they_are(
    network: Network, files: Origin, manifest: Manifest
) -> None:
    origin, host = await network.origin(files), await network.host("a")
    located = FetchedEngineFiles(host.held, host.sources, host.fetches)
    copy = write_files(network.tmp_path / "copy")
    assert (await located.located(spec_of(manifest, copy))).model_dir == copy
    assert origin.uploads.sent_bytes == 0
    # Others may have them from there.
    weights = next(file for file in manifest.files if file.name == "model.safetensors")
    found = await host.held.find(weights.sha256)
    assert found is not None
    assert found.path == copy / "model.safetensors"


async def test_an_engine_that_starts_again_does_not_need_the_model_service(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    origin, host = await network.origin(files), await network.host("a")
    located = FetchedEngineFiles(host.held, host.sources, host.fetches)
    await located.located(spec_of(manifest, folder))
    await origin.stop()
    files.manifests.clear()
    assert (await located.located(spec_of(manifest, folder))).model_dir == folder
    # Unless the files are others now.
    (folder / "tokenizer.json").write_text("[]")
    await network.origin(files, "model-2")
    files.add(folder)
    files.manifests[manifest.digest] = manifest
    with pytest.raises(ModelFilesDamaged):
        await located.located(spec_of(manifest, folder))


async def test_other_files_at_the_path_are_not_used(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    await network.origin(files)
    host = await network.host("a")
    located = FetchedEngineFiles(host.held, host.sources, host.fetches)
    other = write_files(network.tmp_path / "other", seed=2)
    directory = (await located.located(spec_of(manifest, other))).model_dir
    assert directory == host.held.directory(manifest.digest)
    assert content(directory) == content(folder)


async def test_files_at_the_path_may_be_left_unused(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    await network.origin(files)
    host = await network.host("a")
    located = FetchedEngineFiles(host.held, host.sources, host.fetches, shared_paths=False)
    directory = (await located.located(spec_of(manifest, folder))).model_dir
    assert directory == host.held.directory(manifest.digest)


async def test_without_a_model_service_the_path_has_to_do(
    network: Network, files: Origin, folder: Path, manifest: Manifest
) -> None:
    host = await network.host("a")
    located = FetchedEngineFiles(host.held, host.sources, host.fetches)
    assert (await located.located(spec_of(manifest, folder))).model_dir == folder


async def test_an_adapters_files_are_fetched_by_its_digest(
    network: Network, files: Origin, folder: Path
) -> None:
    adapter = files.add(folder, "a" * 64)
    await network.origin(files)
    host = await network.host("a")
    directory = await host.fetches.fetch(Wanted(adapter.digest))
    assert content(directory) == content(folder)
    assert await host.fetches.fetch(Wanted(adapter.digest)) == directory
