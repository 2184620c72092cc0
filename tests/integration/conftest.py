"""Databases of both kinds, for the services that have one, and the end of what tests open."""

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.closing import C, Closing
from tests.fakes.databases import sqlite_with_tables
from tests.fakes.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """A PostgreSQL server; a test that stops it must start it again."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def schema() -> Schema | None:
    """The tables that `database` has; None for an empty one."""
    return None


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, schema: Schema | None) -> DatabaseUrl:
    """A database of either kind, without rows."""
    if request.param == "postgresql":
        return request.getfixturevalue("postgres").create_database(schema)
    path = tmp_path / "deep/er/service.db"
    return sqlite_with_tables(path, schema) if schema is not None else SqliteFile(path)


@pytest.fixture
async def closing() -> AsyncGenerator[Closing]:
    async with AsyncExitStack() as stack:

        def closing(opened: C) -> C:
            stack.push_async_callback(opened.close)
            return opened

        yield closing
