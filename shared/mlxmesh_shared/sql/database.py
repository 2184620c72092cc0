"""The database of a service: SQLite by default, PostgreSQL by URL."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.sql.errors import explained, retrying
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.sqlite import SqliteDatabase
from mlxmesh_shared.sql.urls import DatabaseUrl, PostgresServer, SqliteFile

Value = str | int | float | bytes | datetime


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


async def open_database(url: DatabaseUrl, schema: Schema) -> Database:
    """Opens a database and upgrades its tables; the caller closes it.

    Raises: MeshError that names the problem with the database and its remedy.
    """
    database = SqliteDatabase(url.path) if isinstance(url, SqliteFile) else _postgres(url, schema)
    try:
        async for attempt in retrying():
            with attempt, explained(url, schema):
                if await revision(database, schema) != schema.head:
                    await _upgrade(url, schema)
    except BaseException:
        await database.close()
        raise
    return database


async def revision(database: Database, schema: Schema) -> str | None:
    """The revision of the tables; None in a database without them."""
    if schema.version_table not in await database.tables():
        return None
    async with database.reading() as session:
        rows = await session.fetch(f"SELECT version_num FROM {schema.version_table}")  # noqa: S608
    return rows[0]["version_num"] if rows else None


async def _upgrade(url: DatabaseUrl, schema: Schema) -> None:
    # Not at the top: SQLAlchemy and Alembic are slow to import, and few starts upgrade.
    from mlxmesh_shared.sql.upgrade import upgrade

    await upgrade(url, schema)


def _postgres(url: PostgresServer, schema: Schema) -> Database:
    try:
        # Not at the top: the driver belongs to an extra of its own.
        from mlxmesh_shared.sql.postgres import PostgresDatabase
    except ModuleNotFoundError as error:
        raise IllegalState(
            f'{schema.name} in PostgreSQL needs asyncpg: pip install "mlxmesh[postgres]"'
        ) from error
    return PostgresDatabase(url, writer_lock=schema.writer_lock)
