"""The catalogue in both databases: migrations, cancellation, outdated observations."""

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

import mlxmesh_model
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Artifact, Phase, Replica
from mlxmesh_model.catalogue.rows import REPLICA_COLUMNS, VERSION_COLUMNS
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.upgrade import make_engine
from mlxmesh_shared.sql.urls import SqliteFile

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)


@pytest.fixture
async def store(database):
    store = await Store.open(database)
    yield store
    await store.close()


def _columns(connection: Connection) -> dict[str, set[str]]:
    inspector = inspect(connection)
    tables = ("versions", "replicas")
    return {name: {column["name"] for column in inspector.get_columns(name)} for name in tables}


async def test_the_migrations_create_the_columns_of_the_code(database):
    await (await open_database(database, CATALOGUE)).close()
    engine = make_engine(database)
    async with engine.connect() as connection:
        found = await connection.run_sync(_columns)
    await engine.dispose()
    assert found == {"versions": set(VERSION_COLUMNS), "replicas": set(REPLICA_COLUMNS)}


async def test_sqlite_is_tuned(closing, tmp_path):
    database = closing(await open_database(SqliteFile(tmp_path / "model.db"), CATALOGUE))
    for transaction in (database.reading, database.writing):
        async with transaction() as session:
            [journal] = await session.fetch("PRAGMA journal_mode")
            [keys] = await session.fetch("PRAGMA foreign_keys")
        assert (journal["journal_mode"], keys["foreign_keys"]) == ("wal", 1)


def test_the_newest_revision_is_the_one_that_is_opened_without_alembic():
    migrations = Path(mlxmesh_model.__file__).parent / "migrations"
    assert ScriptDirectory(str(migrations)).get_heads() == [CATALOGUE.head]


async def test_reopening_keeps_everything(closing, database, store):
    await store.register("pocket", ARTIFACT)
    other = closing(await Store.open(database))
    [model] = await other.models()
    assert model.versions[0].artifact == ARTIFACT
    assert model.versions[0].created_at.tzinfo is not None


async def test_an_observation_under_an_older_intent_is_not_written(store):
    await store.register("pocket", ARTIFACT)
    reference = ModelReference("pocket")
    seen = await store.set_desired_replicas(reference, replicas=1)
    await store.set_desired_replicas(reference, replicas=0)
    ready = seen.with_replicas((Replica("e", "r", Phase.READY),), None)
    assert not await store.record(ready)
    assert (await store.model("pocket")).versions[0].replicas == ()


async def test_a_removed_version_is_not_written(store):
    await store.register("pocket", ARTIFACT)
    [version] = (await store.model("pocket")).versions
    await store.delete(ModelReference("pocket"))
    assert not await store.record(version)


async def test_only_visible_changes_are_numbered(store):
    await store.register("pocket", ARTIFACT)
    version = await store.set_desired_replicas(ModelReference("pocket"), replicas=2)
    before = await store.sequence()
    pending = (Replica("e", "r"), Replica("f", "r"))
    assert await store.record(version.with_replicas(pending, None))
    assert await store.sequence() == before
    ready = (Replica("e", "r", Phase.READY), pending[1])
    assert await store.record(version.with_replicas(ready, None))
    assert await store.sequence() == before + 1
    [stored] = (await store.model("pocket")).versions
    assert (stored.replicas, stored.state) == (ready, State.READY)


async def test_loading_again_retries_failed_replicas(store):
    await store.register("pocket", ARTIFACT)
    version = await store.set_desired_replicas(ModelReference("pocket"), replicas=1)
    await store.record(version.with_replicas((Replica("e", "r", Phase.FAILED),), None))
    version = await store.set_desired_replicas(ModelReference("pocket"), replicas=1)
    assert version.replicas == (Replica("e", "r", Phase.PENDING),)


async def test_a_model_registered_again_has_no_tombstone(store):
    await store.register("pocket", ARTIFACT)
    await store.delete(ModelReference("pocket"))
    [gone] = await store.changes(1)
    assert gone.model is None
    await store.register("pocket", ARTIFACT)
    [back] = await store.changes(1)
    assert back.model is not None
    assert back.sequence > gone.sequence


async def test_cancelled_callers_leave_the_store_usable(store):
    async def work(number: int) -> None:
        await store.register(f"m{number}", replace(ARTIFACT, digest=f"{number:064}"))
        await store.models()

    for number in range(40):
        task = asyncio.create_task(work(number))
        await asyncio.sleep(random.random() * 0.003)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(20):
        await store.register("last", ARTIFACT)
        assert (await store.model("last")).versions[0].number == 1


async def test_concurrent_writers_each_get_a_sequence_number(store):
    await asyncio.gather(
        *(store.register(f"m{n}", replace(ARTIFACT, digest=f"{n:064}")) for n in range(20))
    )
    sequences = [change.sequence for change in await store.changes(0)]
    assert sequences == list(range(1, 21))


async def test_changes_by_another_process_notify_subscribers(database):
    mine, other = await Store.open(database), await Store.open(database)
    following = asyncio.create_task(mine.poll_changes(interval_s=0.01))
    try:
        with mine.subscribe() as changed:
            await asyncio.sleep(0.1)
            assert not changed.is_set()
            await other.register("pocket", ARTIFACT)
            async with asyncio.timeout(30):
                await changed.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await mine.close()
        await other.close()


async def test_without_other_processes_the_catalogue_is_not_polled(database):
    mine, other = await Store.open(database), await Store.open(database)
    others = asyncio.Event()
    following = asyncio.create_task(mine.poll_changes(interval_s=0.01, others=others))
    try:
        with mine.subscribe() as changed:
            await other.register("pocket", ARTIFACT)
            await asyncio.sleep(0.1)
            assert not changed.is_set()
            others.set()
            async with asyncio.timeout(30):
                await changed.wait()
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await mine.close()
        await other.close()


async def test_on_change_is_called_for_each_visible_change(closing, database):
    told: list[tuple[bool, bool]] = []
    store = closing(
        await Store.open(
            database, lambda before, after: told.append((before is not None, after is not None))
        )
    )
    await store.register("pocket", ARTIFACT)
    await store.register("pocket", ARTIFACT)  # the same again: no change
    await store.set_alias("pocket", "stable", 1)
    await store.delete(ModelReference("pocket"))
    assert told == [(False, True), (True, True), (True, False)]
