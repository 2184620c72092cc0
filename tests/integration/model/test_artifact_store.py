"""The store of model files: sharing, repairs, full disks, hubs that lie, and earlier layouts."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from mlxmesh_model.artifacts.folder import inspect
from mlxmesh_model.artifacts.verification import Check
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Source, Version
from mlxmesh_shared.errors import DiskFull, HubUnavailable, ModelFilesDamaged
from mlxmesh_shared.reference import ModelReference
from tests.fakes.artifact_rig import ArtifactRig, artifact_rig
from tests.fakes.gguf_files import Shape, write_gguf
from tests.fakes.hub import FakeHub, serving_hub
from tests.fakes.limited_disk import LimitedDisk, LinklessDisk
from tests.fakes.model_directory import write_model
from tests.fakes.small_disk import needs_mount, small_disk

MIB = 2**20
REPO_ID = "mlx/pocket"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tmp_path) -> Generator[FakeHub]:
    with serving_hub() as hub:
        hub.add(REPO_ID, write_model(tmp_path / "at-the-hub", rows=3 * MIB // 16))
        yield hub


@pytest.fixture
async def rig(tmp_path, hub) -> AsyncGenerator[ArtifactRig]:
    async with artifact_rig(tmp_path, hub.endpoint) as rig:
        yield rig


def directory(version: Version) -> Path:
    assert version.artifact is not None
    return Path(version.artifact.directory)


def content(version: Version) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory(version).iterdir()}


def damage(path: Path) -> None:
    """One bit rots; the size and the names of the file stay."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 1)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))


def blobs(rig: ArtifactRig) -> list[Path]:
    return [path for path in rig.blobs.blobs.rglob("*") if path.is_file()]


async def verify(rig: ArtifactRig, reference: str = "") -> list[Check]:
    chosen = ModelReference.parse(reference) if reference else None
    return [check async for check in rig.verification.verify(chosen)]


async def test_versions_share_files_that_they_both_have(rig, hub):
    first = await rig.pull(REPO_ID)
    hub.commit = hub.commit[::-1]
    hub.models[REPO_ID]["tokenizer_config.json"] = b'{"chat_template": "other"}'
    hub.ranges_seen.clear()
    second = await rig.pull(REPO_ID)

    assert (first.number, second.number) == (1, 2)
    assert hub.ranges_seen == ["tokenizer_config.json"]
    assert (directory(first) / WEIGHTS).samefile(directory(second) / WEIGHTS)
    page = await rig.inventory.page(limit=10)
    sizes = {item.version.number: item.size_bytes for item in page.items}
    assert page.stored_bytes < sizes[1] + 1000
    assert {item.shared_bytes for item in page.items} == {
        sizes[1] - len(content(first)["tokenizer_config.json"])
    }


async def test_deleting_a_version_keeps_what_another_has(rig, hub):
    first = await rig.pull(REPO_ID, "one")
    second = await rig.pull(REPO_ID, "two")
    whole = content(second)
    removed = await rig.store.delete(ModelReference("one"))
    await rig.pruning.release(removed)
    assert not directory(first).exists()
    assert content(second) == whole
    await rig.pruning.release(await rig.store.delete(ModelReference("two")))
    assert blobs(rig) == []


async def test_an_import_and_a_pull_of_it_share_files(rig, hub, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", Shape())
    hub.models["owner/tiny"] = {"tiny.gguf": file.read_bytes()}
    imported = await rig.import_file("imported", file)
    pulled = await rig.pull("owner/tiny", "pulled", file="tiny.gguf")
    assert content(imported) == content(pulled)
    assert (directory(imported) / WEIGHTS).samefile(directory(pulled) / WEIGHTS)
    # The GGUF file itself belongs to no version.
    assert {path.name for path in blobs(rig)} == {
        hashlib.sha256(data).hexdigest() for data in content(pulled).values()
    }


async def test_two_processes_download_a_file_once(rig, hub, tmp_path):
    hub.gate.clear()
    async with artifact_rig(tmp_path, hub.endpoint) as other:
        pulling = [
            asyncio.create_task(rig.pull(REPO_ID, "one")),
            asyncio.create_task(other.pull(REPO_ID, "two")),
        ]
        while sum(WEIGHTS in seen for seen in hub.ranges_seen) < 1:
            await asyncio.sleep(0.01)
        hub.gate.set()
        first, second = await asyncio.gather(*pulling)
    assert hub.ranges_seen.count(WEIGHTS) == 1
    assert content(first) == content(second)


async def test_a_file_system_without_links_has_copies(tmp_path, hub):
    async with artifact_rig(tmp_path, hub.endpoint, LinklessDisk()) as rig:
        first, second = await rig.pull(REPO_ID, "one"), await rig.pull(REPO_ID, "two")
        assert hub.ranges_seen.count(WEIGHTS) == 1
        assert content(first) == content(second)
        assert not (directory(first) / WEIGHTS).samefile(directory(second) / WEIGHTS)
        assert (await rig.pruning.find(unfinished_after_s=0)).files == ()
        await rig.pruning.release(await rig.store.delete(ModelReference("one")))
        assert content(second)
        assert [check.version.damaged_files for check in await verify(rig) if check.version] == [()]


async def test_a_rotten_bit_keeps_a_version_from_being_loaded_until_it_is_pulled(rig, hub):
    version = await rig.pull(REPO_ID)
    whole = content(version)
    damage(directory(version) / WEIGHTS)
    checks = await verify(rig)

    assert checks[-1].done_bytes == checks[-1].total_bytes > 3 * MIB
    assert checks[-1].version is not None
    assert checks[-1].version.damaged_files == (WEIGHTS,)
    with pytest.raises(ModelFilesDamaged, match=r"pocket@1 .*model\.safetensors.*pull mlx/pocket"):
        await rig.store.set_desired_replicas(ModelReference("pocket"), replicas=1)

    hub.ranges_seen.clear()
    repaired = await rig.pull(REPO_ID)
    assert hub.ranges_seen == [WEIGHTS]
    assert (repaired.number, repaired.damaged_files) == (1, ())
    assert content(repaired) == whole
    await rig.store.set_desired_replicas(ModelReference("pocket"), replicas=1)


async def test_a_missing_file_is_restored_without_the_hub_sending_it(rig, hub):
    version = await rig.pull(REPO_ID)
    (directory(version) / "config.json").unlink()
    [checked] = [check.version for check in await verify(rig, "pocket@1") if check.version]
    assert checked.damaged_files == ("config.json",)
    hub.ranges_seen.clear()
    assert "config.json" in content(await rig.pull(REPO_ID))
    assert hub.ranges_seen == []


async def test_a_version_that_was_restored_by_hand_is_whole_at_the_next_check(rig, hub):
    version = await rig.pull(REPO_ID)
    path = directory(version) / WEIGHTS
    damage(path)
    await verify(rig)
    damage(path)  # the bit turns back
    [checked] = [check.version for check in await verify(rig) if check.version]
    assert checked.damaged_files == ()


async def test_a_damaged_import_is_repaired_by_importing_again(rig, tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", Shape())
    version = await rig.import_file("tiny", file)
    whole = content(version)
    damage(directory(version) / WEIGHTS)
    await verify(rig)
    again = await rig.import_file("tiny", file)
    assert (again.number, again.damaged_files, content(again)) == (1, (), whole)
    # The damaged directory is in no version any more.
    await rig.recover()
    assert not directory(version).exists()


async def test_a_changed_registered_directory_is_found_but_not_touched(rig, tmp_path):
    place = write_model(tmp_path / "mine")
    await rig.store.register("mine", inspect(place))
    damage(place / WEIGHTS)
    [checked] = [check.version for check in await verify(rig) if check.version]
    assert WEIGHTS in checked.damaged_files
    assert blobs(rig) == []
    _, number = await rig.store.register("mine", inspect(place))
    assert number == 2


async def test_models_of_an_earlier_version_are_stored_when_they_are_verified(rig, hub):
    """Before the store, a version's directory had the only copy and nothing recorded its files."""
    version = await rig.pull(REPO_ID)
    whole = content(version)
    shutil.rmtree(rig.blobs.root)
    await rig.store.finish_pull(await rig.store.begin_pull("old", version.source), version.artifact)
    shutil.move(directory(version), directory(version).parent.parent / "old" / "1")
    [old] = (await rig.store.model("old")).versions
    assert await rig.pruning.find(unfinished_after_s=0) is not None
    async with rig.store.changing("old") as (session, _):
        place = str(rig.blobs.models_dir.resolve() / "old/1")
        await session.fetch("UPDATE versions SET directory = $1 WHERE model = 'old'", place)
    await rig.pruning.release(await rig.store.delete(ModelReference("pocket")))

    [checked] = [check.version for check in await verify(rig, "old") if check.version]
    assert checked.damaged_files == ()
    assert content(checked) == whole
    hub.ranges_seen.clear()
    again = await rig.pull(REPO_ID, "again")
    assert WEIGHTS not in hub.ranges_seen
    assert (directory(again) / WEIGHTS).samefile(directory(checked) / WEIGHTS)
    damage(directory(checked) / WEIGHTS)
    assert {c.version.damaged_files for c in await verify(rig) if c.version} == {(WEIGHTS,)}
    assert old.artifact is not None


async def test_a_download_of_an_earlier_version_is_continued(rig, hub, tmp_path):
    data = hub.models[REPO_ID]
    place = tmp_path / "models/pocket/1"
    place.mkdir(parents=True)
    (place / "config.json").write_bytes(data["config.json"])
    digest = hashlib.sha256(data[WEIGHTS]).hexdigest()
    (place / f"{WEIGHTS}.{digest[:16]}.part").write_bytes(data[WEIGHTS][:MIB])
    version = await rig.pull(REPO_ID)
    assert f"{WEIGHTS} bytes={MIB}-" in hub.ranges_seen
    assert "config.json" not in hub.ranges_seen
    assert content(version) == data


async def test_damaged_bytes_of_an_interrupted_download_are_downloaded_again(rig, hub):
    hub.break_after_bytes, hub.breaks_left = MIB, 2
    with pytest.raises(HubUnavailable):
        await rig.pull(REPO_ID)
    [part] = rig.blobs.parts.iterdir()
    damage(part)
    assert content(await rig.pull(REPO_ID)) == hub.models[REPO_ID]


async def test_a_pull_that_could_not_store_its_failure_can_be_continued(rig, hub):
    """As on a disk that is full for the catalogue too."""
    source = Source(repo_id=REPO_ID, revision="main", commit=hub.commit)
    await rig.store.begin_pull("pocket", source)
    assert (await rig.pull(REPO_ID)).state is State.AVAILABLE


@pytest.mark.parametrize("told_bytes", [None, 10 * MIB])
async def test_a_full_disk_says_how_much_is_needed_and_loses_nothing(tmp_path, hub, told_bytes):
    """Whether that is known before the download, or only a write fails."""
    disk = LimitedDisk(2 * MIB, told_bytes=told_bytes)
    async with artifact_rig(tmp_path, hub.endpoint, disk) as rig:
        with pytest.raises(DiskFull, match=r"mlx/pocket needs [\d,]+ more bytes, and [\d,]+ are"):
            await rig.pull(REPO_ID)
        [version] = (await rig.store.model("pocket")).versions
        assert version.state is State.PULL_FAILED
        assert not (tmp_path / "models/pocket/1").exists()
        kept = sum(path.stat().st_size for path in rig.blobs.parts.glob("*"))
        assert kept == (0 if told_bytes is None else 2 * MIB - sum(map(_size, blobs(rig))))

        disk.left_bytes, disk.told_bytes = 10 * MIB, None
        hub.ranges_seen.clear()
        assert content(await rig.pull(REPO_ID)) == hub.models[REPO_ID]
        if told_bytes:
            assert hub.ranges_seen == [f"{WEIGHTS} bytes={kept}-"]


def _size(path: Path) -> int:
    return path.stat().st_size


@pytest.mark.parametrize("left_bytes", [*range(0, 600, 37), *range(600, 3 * MIB, 300_000)])
async def test_a_disk_that_is_full_at_any_byte(tmp_path, hub, left_bytes: int):
    disk = LimitedDisk(left_bytes, told_bytes=10 * MIB)
    async with artifact_rig(tmp_path, hub.endpoint, disk) as rig:
        with pytest.raises(DiskFull):
            await rig.pull(REPO_ID)
        assert not (tmp_path / "models/pocket/1").exists()
        disk.left_bytes = 10 * MIB
        assert content(await rig.pull(REPO_ID)) == hub.models[REPO_ID]
        assert (await rig.pruning.find(unfinished_after_s=0)).freed_bytes == 0


@needs_mount
async def test_a_small_real_disk(tmp_path, hub):
    with small_disk(tmp_path / "disk", size="5m") as disk:
        async with artifact_rig(disk.path, hub.endpoint) as rig:
            disk.fill(left_bytes=MIB)
            with pytest.raises(DiskFull, match=r"needs 3,[\d,]+ more bytes, and [\d,]+ are free"):
                await rig.pull(REPO_ID)
            disk.free()
            assert content(await rig.pull(REPO_ID)) == hub.models[REPO_ID]


@pytest.mark.parametrize("lie", [-1, 1, -1000, 5000])
async def test_a_hub_that_lies_about_sizes(rig, hub, lie: int):
    hub.size_lies[WEIGHTS] = lie
    with pytest.raises(HubUnavailable, match="did not match its checksum"):
        await rig.pull(REPO_ID)
    assert not (rig.blobs.models_dir / "pocket/1").exists()
    hub.size_lies.clear()
    assert content(await rig.pull(REPO_ID)) == hub.models[REPO_ID]


@pytest.mark.parametrize("checksum", ["../../../../etc/passwd", "", "A" * 64, "0" * 63])
async def test_a_checksum_that_is_none_is_rejected(rig, hub, checksum: str):
    hub.told_checksum = checksum
    with pytest.raises(HubUnavailable, match="reports no checksum"):
        await rig.pull(REPO_ID)


async def test_a_file_that_changes_at_the_hub_is_not_mixed(rig, hub):
    hub.break_after_bytes, hub.breaks_left = MIB, 2
    with pytest.raises(HubUnavailable):
        await rig.pull(REPO_ID)
    data = hub.models[REPO_ID]
    data[WEIGHTS] = data[WEIGHTS][:-1] + b"!"
    assert content(await rig.pull(REPO_ID)) == data


async def test_prune_keeps_an_unfinished_download_for_a_time(rig, hub):
    hub.break_after_bytes, hub.breaks_left = MIB, 2
    with pytest.raises(HubUnavailable):
        await rig.pull(REPO_ID)
    assert (await rig.pruning.prune()).files == ()
    dry = await rig.pruning.find(unfinished_after_s=0)
    removal = await rig.pruning.prune(unfinished_after_s=0)
    assert dry.freed_bytes == removal.freed_bytes > MIB
    assert [*blobs(rig), *rig.blobs.parts.iterdir()] == []
    assert content(await rig.pull(REPO_ID)) == hub.models[REPO_ID]


async def test_prune_does_not_touch_a_download_that_runs(rig, hub):
    hub.gate.clear()
    pulling = asyncio.create_task(rig.pull(REPO_ID))
    while not list(rig.blobs.parts.glob("*")):
        await asyncio.sleep(0.01)
    assert (await rig.pruning.prune(unfinished_after_s=0)).files == ()
    hub.gate.set()
    assert content(await pulling) == hub.models[REPO_ID]


async def test_prune_removes_what_a_killed_removal_left(rig, hub):
    version = await rig.pull(REPO_ID)
    await rig.store.delete(ModelReference("pocket"))  # and the process is killed
    dry = await rig.pruning.find()
    assert dry.directories == (directory(version),)
    assert dry.freed_bytes > 3 * MIB
    removal = await rig.pruning.prune()
    assert removal.freed_bytes == dry.freed_bytes
    assert not directory(version).exists()
    assert blobs(rig) == []


async def test_prune_removes_no_directory_of_a_catalogue_that_was_lost(rig, hub, tmp_path):
    version = await rig.pull(REPO_ID)
    await rig.store.close()
    for path in tmp_path.glob("model.db*"):
        path.unlink()
    async with artifact_rig(tmp_path, hub.endpoint) as other:
        assert (await other.pruning.prune(unfinished_after_s=0)).files == ()
        assert content(version) == hub.models[REPO_ID]
