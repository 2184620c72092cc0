"""Databases of both kinds, for the services that have one."""

from collections.abc import Generator
from pathlib import Path

import pytest

from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from tests.fakes.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Generator[PostgresServer]:
    """A PostgreSQL server; a test that stops it must start it again."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> DatabaseUrl:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "deep/er/service.db")
    return request.getfixturevalue("postgres").create_database()
