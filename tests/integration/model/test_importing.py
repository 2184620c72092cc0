"""Importing GGUF files from this host and a hub: complete, rejected, cancelled, interrupted."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Type

from mlxmesh.model.v1 import model_pb2 as pb
from mlxmesh_model.artifacts.imports import Imports
from mlxmesh_model.artifacts.progress import Progress
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.artifacts.blob_store import BlobStore
from mlxmesh_shared.errors import (
    DiskFull,
    FeatureNotSupported,
    HubUnavailable,
    Internal,
    InvalidArgument,
    SourceNotFound,
)
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.closing import Closing
from tests.fakes.gguf_files import Shape, write_gguf
from tests.fakes.hub import serving_hub
from tests.fakes.small_disk import needs_mount, small_disk

REPO_ID = "owner/tiny-GGUF"
FILE = "tiny-Q4_1.gguf"
LARGE = Shape(hidden=1024, heads=8, kv_heads=8, head_dim=128, intermediate=16_384, layers=1,
              vocab=32_768)  # fmt: skip


@pytest.fixture
def hub(tmp_path, mesh):
    with serving_hub() as hub:
        directory = tmp_path / "at-the-hub"
        directory.mkdir()
        write_gguf(directory / FILE, Shape(kind=Type.Q4_1))
        write_gguf(directory / "tiny-Q8_0.gguf", Shape(kind=Type.Q8_0))
        (directory / "README.md").write_text("not for serving")
        hub.add(REPO_ID, directory)
        mesh.hub_endpoint = hub.endpoint
        yield hub


@pytest.fixture
async def service(mesh, hub):
    return await mesh.service()


async def run(service, file: Path, name: str = "tiny", dtype: str = ""):
    request = pb.ImportModelRequest(name=name, file=str(file), dtype=dtype)
    return [message async for message in service.stub.ImportModel(request)]


async def pull(service, file: str = FILE, **fields: Any):
    request = pb.PullModelRequest(repo_id=REPO_ID, file=file, **fields)
    return [message async for message in service.stub.PullModel(request)]


def left(service) -> list[str]:
    """The directories of imports, and those in the making."""
    root = service.tmp_path / "models"
    found = [*root.glob("_imported/*/*"), *root.glob("_store/staging/*")]
    return sorted(str(path.relative_to(root)) for path in found)


async def test_a_file_becomes_a_version(service, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", Shape(kind=Type.Q4_1, embedding_kind=Type.Q8_0))
    messages = await run(service, path)

    assert all(message.name == "tiny" for message in messages)
    done = [message.done_bytes for message in messages]
    assert done == sorted(done)
    version = messages[-1].version
    assert messages[-1].done_bytes == messages[-1].total_bytes > 0
    assert (version.version, version.state) == (1, pb.VERSION_STATE_AVAILABLE)
    assert (version.source, version.architecture) == (str(path), "llama")
    assert (version.dtype, version.vocab_size) == ("4-bit", 288)
    assert len(left(service)) == 1


async def test_the_same_content_is_the_same_version(service, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", Shape())
    await run(service, path)
    before = left(service)
    assert (await run(service, path))[-1].version.version == 1
    assert left(service) == before
    assert (await run(service, path, dtype="float16"))[-1].version.version == 2


async def test_deleting_removes_the_model_but_not_the_gguf_file(service, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", Shape())
    await run(service, path)
    await service.stub.DeleteModel(pb.DeleteModelRequest(model="tiny"))
    assert left(service) == []
    assert path.exists()


async def test_a_path_that_is_not_a_file_is_rejected(service, tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    for file in ("relative.gguf", str(tmp_path), "/nowhere.gguf", str(tmp_path / "pipe.gguf"),
                 "/dev/zero", "/\0"):  # fmt: skip
        with pytest.raises(InvalidArgument) as caught:
            await run(service, Path(file))
        assert caught.value.field == "file"


async def test_a_damaged_file_is_rejected_and_leaves_nothing(service, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", Shape())
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    with pytest.raises(InvalidArgument, match=r"damaged: tensor .* beyond the end") as caught:
        await run(service, path)
    assert caught.value.field == "file"
    assert left(service) == []


async def test_another_kind_of_file_is_said_to_be_one(service, tmp_path):
    path = tmp_path / "notes.gguf"
    path.write_text("These are notes and no model.")
    with pytest.raises(InvalidArgument, match="another kind of file"):
        await run(service, path)


async def test_the_unsupported_feature_is_named(service, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", Shape(metadata={"general.architecture": "rwkv7"}))
    with pytest.raises(FeatureNotSupported, match="architecture is rwkv7"):
        await run(service, path)


async def test_a_cancelled_import_leaves_nothing(service, tmp_path):
    path = write_gguf(tmp_path / "large.gguf", LARGE)
    call = service.stub.ImportModel(pb.ImportModelRequest(name="large", file=str(path)))
    await call.read()
    assert left(service) != []
    call.cancel()
    async with asyncio.timeout(20):
        while left(service):
            await asyncio.sleep(0.05)


async def test_a_killed_conversion_leaves_nothing_that_could_be_loaded(service, tmp_path):
    path = write_gguf(tmp_path / "large.gguf", LARGE)
    importing = asyncio.create_task(run(service, path))
    async with asyncio.timeout(60):
        while not (conversion := _conversion_of(path)):
            await asyncio.sleep(0.01)
    os.kill(conversion, signal.SIGKILL)
    with pytest.raises(Internal, match="conversion ended"):
        await importing
    assert left(service) == []


def _conversion_of(path: Path) -> int | None:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            command = (entry / "cmdline").read_bytes().split(b"\0")
            if b"mlxmesh_model.gguf" in command and str(path).encode() in command:
                return int(entry.name)
    return None


async def test_files_of_a_killed_service_are_removed_at_the_next_start(mesh, service, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", Shape())
    await run(service, path)
    [kept] = left(service)
    imported = ("tiny/0123456789ab.part", "tiny/0123456789ab", "other/ba9876543210")
    for name in (*(f"_imported/{name}" for name in imported), "_store/staging/0123456789ac.part"):
        (tmp_path / "models" / name).mkdir(parents=True)
    again = await mesh.service()
    assert left(again) == [kept]


async def test_a_full_disk_is_reported_and_leaves_nothing(closing, tmp_path):
    async def on_a_full_disk(file: Path, directory: Path, dtype: str, progress: Progress) -> None:
        directory.mkdir(parents=True)
        raise OSError(28, "No space left on device")

    store = closing(await Store.open(SqliteFile(tmp_path / "model.db")))
    imports = Imports(store=store, blobs=BlobStore(tmp_path / "models"), convert=on_a_full_disk)
    path = write_gguf(tmp_path / "tiny.gguf", Shape())
    with pytest.raises(DiskFull, match=r"free space in .*/models"):
        async for _ in imports.import_file("tiny", path, ""):
            pass
    assert list((tmp_path / "models/_store/staging").glob("*")) == []
    assert list((tmp_path / "models/_imported").glob("*/*")) == []
    assert await store.models() == []


@needs_mount
@pytest.mark.parametrize("left_bytes", [0, 60_000])
async def test_a_small_disk_is_reported_and_survived(closing: Closing, tmp_path, left_bytes: int):
    path = write_gguf(tmp_path / "tiny.gguf", Shape())
    store = closing(await Store.open(SqliteFile(tmp_path / "model.db")))
    with small_disk(tmp_path / "disk") as disk:
        imports = Imports(store=store, blobs=BlobStore(disk.path / "models"))
        disk.fill(left_bytes=left_bytes)
        with pytest.raises(DiskFull, match=r"the disk is full.*: free space in .*/disk/models"):
            async for _ in imports.import_file("tiny", path, ""):
                pass
        assert list(disk.path.glob("models/_imported/*/*")) == []
        disk.free()
        async for _ in imports.import_file("tiny", path, ""):
            pass
        assert len(await store.models()) == 1


async def test_a_file_of_a_hub(service, hub):
    messages = await pull(service)
    version = messages[-1].version
    assert messages[-1].name == "tiny-GGUF"
    assert version.source == f"{REPO_ID}/{FILE}@main"
    assert version.dtype == "4-bit"
    done = [message.done_bytes for message in messages]
    assert done == sorted(done)
    assert messages[-1].done_bytes == messages[-1].total_bytes
    folder = service.tmp_path / "models/tiny-GGUF"
    assert [path.name for path in folder.iterdir()] == ["1"]
    assert (folder / "1/model.safetensors").is_file()


async def test_files_and_dtypes_of_one_commit_are_versions_of_their_own(service, hub):
    await pull(service)
    assert (await pull(service, "tiny-Q8_0.gguf"))[-1].version.version == 2
    assert (await pull(service, dtype="bfloat16"))[-1].version.version == 3
    hub.ranges_seen.clear()
    assert (await pull(service))[-1].version.version == 1
    assert hub.ranges_seen == []


async def test_a_broken_download_of_a_file_goes_on(service, hub):
    write_gguf(service.tmp_path / FILE, Shape(kind=Type.Q4_1, vocab=60_000))
    hub.models[REPO_ID][FILE] = (service.tmp_path / FILE).read_bytes()
    hub.break_after_bytes, hub.breaks_left = 2**20, 2
    with pytest.raises(HubUnavailable, match="pull again"):
        await pull(service)
    hub.ranges_seen.clear()
    assert (await pull(service))[-1].version.state == pb.VERSION_STATE_AVAILABLE
    assert [seen.split("=")[0] for seen in hub.ranges_seen] == [f"{FILE} bytes"]


async def test_a_file_with_a_wrong_checksum_is_not_converted(service, hub):
    hub.corrupt.add(FILE)
    with pytest.raises(HubUnavailable, match="did not match its checksum"):
        await pull(service)


async def test_a_pulled_file_that_is_not_taken_is_removed(service, hub):
    hub.models[REPO_ID]["bad.gguf"] = hub.models[REPO_ID][FILE].replace(b"smollm", b"smolln")
    with pytest.raises(FeatureNotSupported, match="smolln"):
        await pull(service, "bad.gguf")
    version = await service.version("tiny-GGUF@1")
    assert version.failure.reason == "FEATURE_NOT_SUPPORTED"
    assert list((service.tmp_path / "models/tiny-GGUF").iterdir()) == []


async def test_a_file_that_the_hub_does_not_have_is_named_with_those_that_it_has(service, hub):
    with pytest.raises(SourceNotFound, match=FILE) as caught:
        await pull(service, "other.gguf")
    assert caught.value.field == "file"


async def test_a_part_of_a_split_file_is_refused_before_it_is_downloaded(service, hub):
    hub.ranges_seen.clear()
    with pytest.raises(InvalidArgument, match="split file") as caught:
        await pull(service, "x-00001-of-00003.gguf")
    assert caught.value.field == "file"
    assert hub.ranges_seen == []


async def test_a_dtype_goes_with_a_file_only(service, hub):
    with pytest.raises(InvalidArgument) as caught:
        await pull(service, "", dtype="float16")
    assert caught.value.field == "dtype"
