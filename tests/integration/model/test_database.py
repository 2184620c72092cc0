"""Both kinds of database: concurrent stores, other revisions, and large catalogues."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from mlxmesh_model.catalogue.models import Artifact, Source
from mlxmesh_model.catalogue.rows import VERSION_COLUMNS
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.upgrade import make_engine
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.closing import Closing

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)


def artifact(number: int) -> Artifact:
    return replace(ARTIFACT, digest=f"{number:064x}")


async def run_sql(url: DatabaseUrl, *statements: str) -> None:
    """Runs statements on the store's database."""
    engine = make_engine(url)
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))
    await engine.dispose()


def copies_of_a_model(count: int) -> list[str]:
    """Statements that copy the only model."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})"
    columns = [column for column in VERSION_COLUMNS if column != "model"]
    return [
        f"{numbers} INSERT INTO models (name, sequence, last_version)"
        " SELECT 'copy-' || i, i + 1, 1 FROM n",
        f"INSERT INTO versions (model, {', '.join(map(quoted, columns))}) SELECT models.name, "
        + ", ".join(f"versions.{quoted(name)}" for name in columns)
        + " FROM models, versions WHERE models.name <> 'pocket'",
    ]


def quoted(name: str) -> str:
    return f'"{name}"'


@pytest.fixture
def schema() -> None:
    """These databases are empty in the beginning."""


async def test_stores_can_open_an_empty_database_concurrently(database: DatabaseUrl) -> None:
    stores = await asyncio.gather(*(Store.open(database) for _ in range(4)))
    numbers = [(await store.register("pocket", artifact(1)))[1] for store in stores]
    await asyncio.gather(*(store.close() for store in stores))
    assert numbers == [1, 1, 1, 1]


async def test_concurrent_stores_lose_no_call_and_no_version(database: DatabaseUrl) -> None:
    async with AsyncExitStack() as stack:
        stores: list[Store] = []
        for _ in range(4):
            stores.append(await Store.open(database))
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


async def test_a_version_number_is_never_reused(database: DatabaseUrl) -> None:
    store = await Store.open(database)
    _, first = await store.register("pocket", artifact(1))
    _, second = await store.register("pocket", artifact(2))
    await store.delete(ModelReference("pocket"))
    _, third = await store.register("pocket", artifact(1))
    await store.delete(ModelReference("pocket", version=3))
    _, fourth = await store.register("pocket", artifact(1))
    await store.close()
    assert (first, second, third, fourth) == (1, 2, 3, 4)


async def test_more_models_than_the_parameters_of_a_statement(
    closing: Closing, database: DatabaseUrl
) -> None:
    """SQLite takes at most 32,766 of them, PostgreSQL's driver 32,767."""
    store = closing(await Store.open(database))
    await store.register("pocket", ARTIFACT)
    await run_sql(database, *copies_of_a_model(33_000))
    assert len(await store.models()) == 33_001
    assert len(await store.changes(0)) == 33_001
    assert len(await store.models(after="copy-1", limit=10)) == 10


@pytest.mark.parametrize("revision", ["0099", "ffff"])
async def test_a_newer_catalogue_is_rejected_in_one_line(
    database: DatabaseUrl, revision: str
) -> None:
    await (await open_database(database, CATALOGUE)).close()
    await run_sql(database, f"UPDATE alembic_version SET version_num = '{revision}'")
    match = rf"by a newer mlxmesh .*{revision}.*supports {CATALOGUE.head}.*upgrade mlxmesh"
    with pytest.raises(IllegalState, match=match) as caught:
        await open_database(database, CATALOGUE)
    assert "\n" not in caught.value.message


async def test_a_catalogue_of_an_unknown_revision_is_rejected_in_one_line(
    database: DatabaseUrl,
) -> None:
    await (await open_database(database, CATALOGUE)).close()
    await run_sql(database, "UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(IllegalState, match="its revision 0000 is unknown; restore a copy"):
        await open_database(database, CATALOGUE)


async def test_a_database_of_another_application_is_not_changed(database: DatabaseUrl) -> None:
    make_folder(database)
    await run_sql(database, "CREATE TABLE models (mine INTEGER)")
    with pytest.raises(IllegalState, match="tables of another application"):
        await open_database(database, CATALOGUE)
    await run_sql(database, "INSERT INTO models (mine) VALUES (1)")


async def test_version_numbers_continue_those_of_an_older_catalogue(database: DatabaseUrl) -> None:
    """A catalogue of a revision that did not keep the version numbers of removed models."""
    await upgrade_to(database, "0001")
    await run_sql(
        database,
        "INSERT INTO models (name, sequence, last_version) VALUES ('old', 1, 7)",
        "INSERT INTO tombstones (name, sequence) VALUES ('gone', 2)",
        "UPDATE change_counter SET value = 2",
    )
    store = await Store.open(database)
    _, number = await store.register("old", artifact(1))
    _, first = await store.register("gone", artifact(1))
    await store.close()
    assert (number, first) == (8, 1)


async def test_sources_of_an_older_catalogue_are_kept(database: DatabaseUrl) -> None:
    """A catalogue of a revision whose column of the repository had another name."""
    await upgrade_to(database, "0003")
    texts = ("source_directory", "source_file", "source_dtype", "directory", "digest", "dtype")
    more = ("architecture", "failure_reason", "failure_message")
    numbers = ("parameters", "weights_bytes", "context_tokens", "vocab_size", "desired_replicas")
    counts = (*numbers, "intent", "failure_code")
    await run_sql(
        database,
        "INSERT INTO models (name, sequence, last_version) VALUES ('old', 1, 1)",
        'INSERT INTO versions (model, number, state, hub_id, revision, "commit", created_at, '
        + ", ".join((*texts, *more, *counts))
        + ") VALUES ('old', 1, 'pull_failed', 'owner/name', 'main', 'c0ffee',"
        " '2026-01-01 00:00:00+00:00', "
        + ", ".join(["''"] * len((*texts, *more)) + ["0"] * len(counts))
        + ")",
        "INSERT INTO aliases (model, alias, number) VALUES ('old', 'stable', 1)",
    )
    store = await Store.open(database)
    model = await store.model("old")
    await store.close()
    assert model.version(1).source == Source("", "owner/name", "main", "c0ffee")
    assert model.aliases == {"stable": 1}


def make_folder(url: DatabaseUrl) -> None:
    if isinstance(url, SqliteFile):
        url.path.parent.mkdir(parents=True)


async def upgrade_to(url: DatabaseUrl, revision: str) -> None:
    make_folder(url)
    config = Config()
    config.set_main_option("script_location", CATALOGUE.migrations)
    engine = make_engine(url)
    async with engine.begin() as connection:

        def upgrade(sync: Connection) -> None:
            config.attributes.update(connection=sync, version_table=CATALOGUE.version_table)
            command.upgrade(config, revision)

        await connection.run_sync(upgrade)
    await engine.dispose()
