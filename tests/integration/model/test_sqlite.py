"""SQLite in particular: paths, damaged files, and full or read-only disks."""

from dataclasses import replace
from pathlib import Path

import pytest

from mlxmesh_model.catalogue.models import Artifact
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.errors import DiskFull, IllegalState, MeshError
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.urls import SqliteFile
from tests.fakes.closing import Closing
from tests.fakes.small_disk import needs_mount, small_disk

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)


def artifact(number: int) -> Artifact:
    return replace(ARTIFACT, digest=f"{number:064x}")


async def fill(store: Store) -> None:
    for number in range(2, 1000):
        await store.register("pocket", artifact(number))


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "ä & b", "a?mode=ro"])
async def test_a_path_may_contain_characters_special_in_urls(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "model.db"
    store = await Store.open(SqliteFile(path))
    await store.close()
    assert path.is_file()


@pytest.mark.parametrize("content", [b"not a database" * 99, b"SQLite format 3\0" + b"\xff" * 9999])
async def test_a_damaged_catalogue_is_rejected_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.db"
    path.write_bytes(content)
    with pytest.raises(MeshError, match=r"cannot be used: .*; restore a copy") as caught:
        await open_database(SqliteFile(path), CATALOGUE)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_size_limit_is_reported_as_a_full_disk(closing: Closing, tmp_path: Path) -> None:
    store = closing(await Store.open(SqliteFile(tmp_path / "model.db")))
    async with store.transactions.write() as session:
        await session.fetch("PRAGMA max_page_count=1")
    with pytest.raises(DiskFull, match=f"disk is full: free space in {tmp_path}"):
        await fill(store)
    assert await store.models()


@needs_mount
async def test_a_full_disk_is_reported_and_survived(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = await Store.open(SqliteFile(disk.path / "model.db"))
        _, first = await store.register("pocket", artifact(1))
        disk.fill()
        with pytest.raises(DiskFull, match="disk is full: free space in"):
            await fill(store)
        before = [version.number for version in (await store.model("pocket")).versions]
        disk.free()
        _, last = await store.register("pocket", artifact(1001))
        await store.close()
    assert (first, last) == (1, before[-1] + 1)


@needs_mount
@pytest.mark.parametrize("present", [True, False], ids=["opened before", "never opened"])
async def test_a_read_only_disk_is_reported_in_one_line(tmp_path: Path, present: bool) -> None:
    with small_disk(tmp_path / "disk") as disk:
        url = SqliteFile(disk.path / "deep" / "model.db")
        if present:
            await (await open_database(url, CATALOGUE)).close()
        disk.make_read_only()
        with pytest.raises(IllegalState, match="cannot be written") as caught:
            await open_database(url, CATALOGUE)
    assert "\n" not in caught.value.message
