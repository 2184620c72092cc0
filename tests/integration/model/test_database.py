"""The catalogue's database: others beside it, full, damaged, of another version, or large."""

import asyncio
import sqlite3
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event, text

from mlxmesh_model.catalog import Artifact
from mlxmesh_model.database import open_database, sqlite_url
from mlxmesh_model.store import Store
from mlxmesh_shared.errors import DiskFull, IllegalState, MeshError
from mlxmesh_shared.reference import ModelReference
from tests.fakes.small_disk import needs_mount, small_disk

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)


def artifact(number: int) -> Artifact:
    return replace(ARTIFACT, digest=f"{number:064x}")


async def fill(store: Store) -> None:
    for number in range(2, 1000):
        await store.register("pocket", artifact(number))


async def test_stores_beside_each_other_lose_no_call_and_no_version(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        stores: list[Store] = []
        for _ in range(4):
            stores.append(await Store.open(sqlite_url(tmp_path / "model.db")))
            stack.push_async_callback(stores[-1].close)
        calls = [
            store.register("shared" if number % 2 else f"own-{number}", artifact(number))
            for number in range(120)
            for store in stores
        ]
        await asyncio.gather(*calls)
        models = await stores[0].models()
        versions = {model.name: len(model.versions) for model in models}
        assert versions.pop("shared") == 60
        assert versions == {f"own-{number}": 1 for number in range(0, 120, 2)}
        assert await stores[0].sequence() == 120


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "ä & b", "a?mode=ro"])
async def test_a_path_may_hold_what_means_something_in_a_url(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "model.db"
    store = await Store.open(sqlite_url(path))
    await store.close()
    assert path.is_file()


async def test_a_version_number_is_never_given_again(tmp_path: Path) -> None:
    store = await Store.open(sqlite_url(tmp_path / "model.db"))
    _, first = await store.register("pocket", artifact(1))
    _, second = await store.register("pocket", artifact(2))
    await store.delete(ModelReference("pocket"))
    _, third = await store.register("pocket", artifact(1))
    await store.delete(ModelReference("pocket", version=3))
    _, fourth = await store.register("pocket", artifact(1))
    await store.close()
    assert (first, second, third, fourth) == (1, 2, 3, 4)


async def test_more_models_than_a_statement_takes_variables(tmp_path: Path) -> None:
    """SQLite takes at most 32,766 of them."""
    store = await Store.open(sqlite_url(tmp_path / "model.db"))
    await store.register("pocket", ARTIFACT)
    await asyncio.to_thread(_copy_model, tmp_path / "model.db", 33_000)
    assert len(await store.models()) == 33_001
    assert len(await store.changes(0)) == 33_001
    assert len(await store.models(after="copy-1", limit=10)) == 10
    await store.close()


def _copy_model(path: Path, count: int) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        numbers = (
            f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
        )
        connection.execute(f"{numbers} INSERT INTO models SELECT 'copy-' || i, i + 1, 1 FROM n")
        names = [row[1] for row in connection.execute("PRAGMA table_info(versions)")][1:]
        columns = ", ".join(f'"{name}"' for name in names)
        connection.execute(
            f"INSERT INTO versions (model, {columns}) SELECT models.name, "
            + ", ".join(f'versions."{name}"' for name in names)
            + " FROM models, versions WHERE models.name != 'pocket'"
        )


async def test_a_newer_catalogue_is_refused_in_one_line(tmp_path: Path) -> None:
    engine = await open_database(sqlite_url(tmp_path / "model.db"))
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '0099'"))
    await engine.dispose()
    with pytest.raises(IllegalState, match=r"of a newer mlxmesh .*0099.*upgrade mlxmesh") as caught:
        await open_database(sqlite_url(tmp_path / "model.db"))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"not a database" * 99, b"SQLite format 3\0" + b"\xff" * 9999])
async def test_a_damaged_catalogue_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.db"
    path.write_bytes(content)
    with pytest.raises(MeshError, match=r"cannot be used: .*; restore a copy") as caught:
        await open_database(sqlite_url(path))
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE models (mine INTEGER)")
    with pytest.raises(IllegalState, match="other tables than a catalogue's"):
        await open_database(sqlite_url(path))


async def test_a_catalogue_that_may_not_grow_says_that_the_disk_is_full(tmp_path: Path) -> None:
    engine = await open_database(sqlite_url(tmp_path / "model.db"))
    await engine.dispose()

    def stop_growing(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA max_page_count=1").close()

    event.listen(engine.sync_engine, "connect", stop_growing)
    store = Store(engine)
    with pytest.raises(DiskFull, match=f"disk is full: free space in {tmp_path}"):
        await fill(store)
    assert await store.models()
    await store.close()


@needs_mount
async def test_a_full_disk_is_told_and_survived(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = await Store.open(sqlite_url(disk.path / "model.db"))
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
async def test_a_read_only_disk_is_told_in_one_line(tmp_path: Path, present: bool) -> None:
    with small_disk(tmp_path / "disk") as disk:
        url = sqlite_url(disk.path / "deep" / "model.db")
        if present:
            await (await open_database(url)).dispose()
        disk.make_read_only()
        with pytest.raises(IllegalState, match="cannot be written") as caught:
            await open_database(url)
    assert "\n" not in caught.value.message


async def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    url = "postgresql+asyncpg://me:secret@127.0.0.1:9/catalogue"
    with pytest.raises(MeshError, match=r"127\.0\.0\.1 cannot be reached") as caught:
        await open_database(url)
    assert "secret" not in caught.value.message
