"""The database behind the catalogue: SQLite by default, PostgreSQL by URL."""

from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, event, inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mlxmesh_model.catalogue.database_errors import damaged, explained, newer, retrying
from mlxmesh_model.catalogue.database_urls import is_sqlite
from mlxmesh_shared.errors import IllegalState

HEAD = "0004"
"""The newest revision in `migrations/versions`."""

BUSY_TIMEOUT_MS = 5000
_CONNECT_TIMEOUT_S = 10
_IDLE_TIMEOUT_MS = 60_000
# An arbitrary number that must be the same in every version of this software.
_UPGRADE_LOCK = 6_518_374_011
_WRITES = "mlxmesh_writes"


async def open_database(url: URL) -> AsyncEngine:
    """Opens a database and upgrades its tables; the caller disposes of the engine.

    Raises: MeshError that names the problem with the database and its remedy.
    """
    with explained(url):
        engine = _sqlite_engine(url) if is_sqlite(url) else _postgres_engine(url)
    try:
        async for attempt in retrying():
            with attempt, explained(url):
                async with for_writing(engine).begin() as connection:
                    await connection.run_sync(_upgrade)
    except BaseException:
        await engine.dispose()
        raise
    return engine


def for_writing(engine: AsyncEngine) -> AsyncEngine:
    """The same database for writing transactions; in SQLite, one at a time across processes."""
    return engine.execution_options(**{_WRITES: True})


def for_reading(engine: AsyncEngine) -> AsyncEngine:
    """The same database for reading transactions, each of which sees one state of it."""
    if is_sqlite(engine.url):
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def _postgres_engine(url: URL) -> AsyncEngine:
    settings = {
        "application_name": "mlxmesh",
        "lock_timeout": str(BUSY_TIMEOUT_MS),
        # A process that is suspended within a transaction must not block the others forever.
        "idle_in_transaction_session_timeout": str(_IDLE_TIMEOUT_MS),
    }
    try:
        return create_async_engine(
            url,
            # No call fails because the server was restarted.
            pool_pre_ping=True,
            connect_args={"timeout": _CONNECT_TIMEOUT_S, "server_settings": settings},
        )
    except ModuleNotFoundError as error:
        raise IllegalState(
            'a catalogue in PostgreSQL needs asyncpg: pip install "mlxmesh[postgres]"'
        ) from error


def _sqlite_engine(url: URL) -> AsyncEngine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url)
    event.listen(engine.sync_engine, "connect", _tune_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


class _Connection(Protocol):
    """The methods of a DB-API connection that are used here."""

    isolation_level: str | None

    def execute(self, sql: str, /) -> Any: ...


def _tune_sqlite(connection: _Connection, _record: object) -> None:
    """Concurrent readers with one writer, enforced foreign keys, waiting for locks."""
    # Otherwise the driver begins a transaction itself, and only at the first write: by then, data
    # that was read before may be outdated.
    connection.isolation_level = None
    # The timeout first, because the other pragmas need locks.
    for pragma in [f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "foreign_keys=ON"]:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    url = connection.engine.url
    if not is_sqlite(url):
        # Of several processes that start at once, one creates the tables.
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
    revision = _revision(connection)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise newer(url, revision, HEAD)
    if revision is None and inspect(connection).get_table_names():
        raise damaged(url, "it contains tables of another application")
    # Imported late: Alembic is slow to import and is needed only for an upgrade.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "mlxmesh_model:migrations")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, HEAD)
    except CommandError as error:
        raise damaged(url, f"its revision {revision} is unknown") from error


def _revision(connection: Connection) -> str | None:
    """The revision of the tables; None in a database without a catalogue."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
