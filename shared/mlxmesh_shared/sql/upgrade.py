"""Brings the tables of a database to the newest revision, with Alembic.

The only module that imports SQLAlchemy: `open_database` imports it when an upgrade is due.
"""

from typing import Any, Protocol

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, event, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mlxmesh_shared.sql.errors import damaged, newer
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.sqlite import BUSY_TIMEOUT_MS
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile


async def upgrade(url: DatabaseUrl, schema: Schema) -> None:
    """Upgrades the tables in one transaction; of several processes that do so, one does.

    Raises: MeshError for a database with other tables, or those of a newer version.
    """
    engine = make_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, url, schema)
    finally:
        await engine.dispose()


def make_engine(url: DatabaseUrl) -> AsyncEngine:
    """SQLAlchemy's engine for a database; the caller disposes of it."""
    if isinstance(url, SqliteFile):
        engine = create_async_engine(URL.create("sqlite+aiosqlite", database=str(url.path)))
        event.listen(engine.sync_engine, "connect", _leave_transactions_to_us)
        event.listen(engine.sync_engine, "begin", _begin_immediately)
        return engine
    # Not at the top: the driver belongs to an extra of its own.
    from mlxmesh_shared.sql.postgres import connect_arguments

    return create_async_engine("postgresql+asyncpg://", connect_args=connect_arguments(url))


class _DriverConnection(Protocol):
    isolation_level: str | None

    def execute(self, sql: str, /) -> Any: ...


def _leave_transactions_to_us(connection: _DriverConnection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}").close()


def _begin_immediately(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(connection: Connection, url: DatabaseUrl, schema: Schema) -> None:
    if not isinstance(url, SqliteFile):
        connection.execute(text(f"SELECT pg_advisory_xact_lock({schema.upgrade_lock})"))
    revision = _revision(connection, schema.version_table)
    if revision == schema.head:
        return
    if revision is not None and revision > schema.head:
        raise newer(url, schema, revision)
    if revision is None and inspect(connection).get_table_names():
        raise damaged(url, schema, "it contains tables of another application")
    config = Config()
    config.set_main_option("script_location", schema.migrations)
    config.attributes.update(connection=connection, version_table=schema.version_table)
    try:
        command.upgrade(config, schema.head)
    except CommandError as error:
        raise damaged(url, schema, f"its revision {revision} is unknown") from error


def _revision(connection: Connection, table: str) -> str | None:
    if not inspect(connection).has_table(table):
        return None
    return connection.execute(text(f"SELECT version_num FROM {table}")).scalar()  # noqa: S608
