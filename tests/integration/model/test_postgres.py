"""What is special to PostgreSQL: servers that are away or refuse, and clients that are frozen."""

import asyncio
from dataclasses import replace

import asyncpg
import pytest

from mlxmesh_model.catalogue.models import Artifact
from mlxmesh_model.catalogue.schema import CATALOGUE
from mlxmesh_model.catalogue.store import Store
from mlxmesh_shared.errors import IllegalState, ServiceUnavailable
from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.urls import database_url
from tests.fakes.closing import Closing
from tests.fakes.postgres import PostgresServer

ARTIFACT = Artifact("/models/pocket", "d" * 64, "llama", 2**40, 2**41, "4-bit", 4096, 1024)


async def test_a_server_that_restarts_costs_no_call_afterwards(
    closing: Closing, postgres: PostgresServer
) -> None:
    store = closing(await Store.open(postgres.create_database()))
    await store.register("pocket", ARTIFACT)
    await asyncio.gather(*(store.models() for _ in range(4)))
    await asyncio.to_thread(postgres.stop)
    try:
        for _ in range(2):
            with pytest.raises(ServiceUnavailable, match=r"cannot be reached.*that it is running"):
                await store.models()
        with pytest.raises(ServiceUnavailable, match="cannot be reached"):
            await store.register("other", replace(ARTIFACT, digest="e" * 64))
    finally:
        postgres.start()
    assert [model.name for model in await store.models()] == ["pocket"]
    await asyncio.gather(*(store.models() for _ in range(4)))
    await store.register("other", replace(ARTIFACT, digest="e" * 64))


async def test_a_restart_between_calls_costs_none(
    closing: Closing, postgres: PostgresServer
) -> None:
    store = closing(await Store.open(postgres.create_database()))
    await store.register("pocket", ARTIFACT)
    await asyncio.gather(*(store.models() for _ in range(4)))
    postgres.stop()
    postgres.start()
    await asyncio.gather(*(store.models() for _ in range(4)))
    await store.register("other", replace(ARTIFACT, digest="e" * 64))


async def cut_off_in_a_transaction(store: Store, postgres: PostgresServer, database: str) -> None:
    connections = f"FROM pg_stat_activity WHERE datname = '{database}'"
    async with store.transactions.write() as session:
        await asyncio.to_thread(postgres.sql, f"SELECT pg_terminate_backend(pid) {connections}")
        await session.fetch("SELECT 1")


async def test_a_server_that_ends_our_connections_is_told_of(
    closing: Closing, postgres: PostgresServer
) -> None:
    url = postgres.create_database()
    store = closing(await Store.open(url))
    with pytest.raises(ServiceUnavailable, match="cannot be reached"):
        await cut_off_in_a_transaction(store, postgres, url.database)
    assert await store.models() == []


async def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    url = database_url("postgresql://me:secret@127.0.0.1:9/catalogue")
    with pytest.raises(ServiceUnavailable, match=r"127\.0\.0\.1 cannot be reached") as caught:
        await open_database(url, CATALOGUE)
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message


async def test_a_database_that_is_not_there_is_told_in_one_line(postgres: PostgresServer) -> None:
    with pytest.raises(IllegalState, match='database "nowhere" does not exist; check') as caught:
        await open_database(postgres.url("nowhere"), CATALOGUE)
    assert "\n" not in caught.value.message


async def test_a_user_who_may_not_make_tables_is_told_in_one_line(postgres: PostgresServer) -> None:
    name = postgres.create_database().database
    await asyncio.to_thread(postgres.sql, "CREATE ROLE visitor LOGIN")
    with pytest.raises(IllegalState, match=r"permission denied .*may create tables") as caught:
        await open_database(postgres.url(name, user="visitor"), CATALOGUE)
    assert "\n" not in caught.value.message


async def test_a_writer_that_holds_the_lock_too_long_is_told_of(
    closing: Closing, postgres: PostgresServer
) -> None:
    url = postgres.create_database()
    store = closing(await Store.open(url))
    frozen = await asyncpg.connect(host=url.host, user=url.user, database=url.database)
    async with frozen.transaction():
        await frozen.execute("SELECT value FROM change_counter FOR UPDATE")
        await store.models()  # readers do not wait
        writing = asyncio.create_task(store.register("pocket", ARTIFACT))
        await asyncio.sleep(6)
        assert not writing.done()  # it tries again
    _, number = await writing
    assert number == 1
    await frozen.close()
