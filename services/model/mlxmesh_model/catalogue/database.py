"""The database behind the catalogue: SQLite by default, PostgreSQL by URL."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

from mlxmesh_model.catalogue.database_errors import explained, retrying
from mlxmesh_model.catalogue.database_urls import DatabaseUrl, SqliteFile
from mlxmesh_model.catalogue.sqlite import SqliteDatabase
from mlxmesh_shared.errors import IllegalState

HEAD = "0004"
"""The newest revision in `migrations/versions`."""

Value = str | int | datetime


class Row(Protocol):
    """A row of a result."""

    def __getitem__(self, column: str, /) -> Any: ...


class Session(Protocol):
    """A transaction; the values of a statement are bound to its $1, $2 and so on."""

    async def fetch(self, sql: str, *values: Value) -> Sequence[Row]:
        """Runs a statement and returns its rows."""
        ...


class Database(Protocol):
    """What both kinds of database offer; errors are those of the driver."""

    async def tables(self) -> set[str]:
        """The names of all tables."""
        ...

    def reading(self) -> AbstractAsyncContextManager[Session]:
        """A transaction that sees one state of the database."""
        ...

    def writing(self) -> AbstractAsyncContextManager[Session]:
        """A transaction that is isolated from all other changes; commits at its end."""
        ...

    async def close(self) -> None:
        """Closes all connections; no transaction may be open."""
        ...


async def open_database(url: DatabaseUrl) -> Database:
    """Opens a database and upgrades its tables; the caller closes it.

    Raises: MeshError that names the problem with the database and its remedy.
    """
    database = SqliteDatabase(url.path) if isinstance(url, SqliteFile) else _postgres(url)
    try:
        async for attempt in retrying():
            with attempt, explained(url):
                if await revision(database) != HEAD:
                    await _upgrade(url)
    except BaseException:
        await database.close()
        raise
    return database


async def revision(database: Database) -> str | None:
    """The revision of the tables; None in a database without a catalogue."""
    if "alembic_version" not in await database.tables():
        return None
    async with database.reading() as session:
        rows = await session.fetch("SELECT version_num FROM alembic_version")
    return rows[0]["version_num"] if rows else None


async def _upgrade(url: DatabaseUrl) -> None:
    # Not at the top: SQLAlchemy and Alembic are slow to import, and few starts upgrade.
    from mlxmesh_model.catalogue.upgrade import upgrade

    await upgrade(url, HEAD)


def _postgres(url: Any) -> Database:
    try:
        # Not at the top: the driver belongs to an extra of its own.
        from mlxmesh_model.catalogue.postgres import PostgresDatabase
    except ModuleNotFoundError as error:
        raise IllegalState(
            'a catalogue in PostgreSQL needs asyncpg: pip install "mlxmesh[postgres]"'
        ) from error
    return PostgresDatabase(url)
