"""The database behind the catalogue: SQLite by default, PostgreSQL by URL."""

from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, event, inspect, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mlxmesh_model.database_errors import damaged, explained, newer, retrying
from mlxmesh_shared.disk import disk_error
from mlxmesh_shared.errors import ServiceUnavailable

HEAD = "0003"
"""The newest revision in `migrations/versions`."""

BUSY_TIMEOUT_MS = 5000
_WRITES = "mlxmesh_writes"


def sqlite_url(path: Path) -> URL:
    """The URL of a file; a path may hold characters that mean something in the text of a URL."""
    return URL.create("sqlite+aiosqlite", database=str(path))


async def open_database(url: str | URL) -> AsyncEngine:
    """An engine on a database that has been brought up to date; the caller disposes of it.

    Raises: MeshError that says what is wrong with the database, and what to do.
    """
    parsed = make_url(url)
    engine = create_async_engine(parsed)
    try:
        if is_sqlite(engine):
            _prepare_sqlite(engine, parsed)
        async for attempt in retrying():
            with attempt, explained(parsed):
                async with for_writing(engine).begin() as connection:
                    await connection.run_sync(_upgrade)
    except OSError as error:
        await engine.dispose()
        raise disk_error(error, parsed.database) or _unreachable(parsed) from error
    except BaseException:
        await engine.dispose()
        raise
    return engine


def is_sqlite(engine: AsyncEngine) -> bool:
    """Whether the database is a file of this host."""
    return engine.dialect.name == "sqlite"


def for_writing(engine: AsyncEngine) -> AsyncEngine:
    """The same database, for transactions that write: of all processes, one at a time in SQLite."""
    return engine.execution_options(**{_WRITES: True})


def for_reading(engine: AsyncEngine) -> AsyncEngine:
    """The same database, for transactions whose statements all see one state of it."""
    if is_sqlite(engine):
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ")


def _prepare_sqlite(engine: AsyncEngine, url: URL) -> None:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    event.listen(engine.sync_engine, "connect", _tune_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)


class _Connection(Protocol):
    """The part of a DB-API connection that is used here."""

    isolation_level: str | None

    def execute(self, sql: str, /) -> Any: ...


def _tune_sqlite(connection: _Connection, _record: object) -> None:
    """Readers beside one writer, enforced foreign keys, a wait instead of an error on a lock."""
    # Else the driver begins transactions itself, and only at the first change: what was read
    # before may be out of date by then.
    connection.isolation_level = None
    # The wait first: the others need locks themselves.
    for pragma in [f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "foreign_keys=ON"]:
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: Connection) -> None:
    revision = _revision(connection)
    if revision == HEAD:
        return
    if revision is not None and revision > HEAD:
        raise newer(connection.engine.url, revision, HEAD)
    if revision is None and inspect(connection).get_table_names():
        raise damaged(connection.engine.url, "it holds other tables than a catalogue's")
    # Not at the top: it is slow to import and only a change of the tables needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "mlxmesh_model:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _revision(connection: Connection) -> str | None:
    """The revision of the tables that are there, None in a database without a catalogue."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _unreachable(url: URL) -> ServiceUnavailable:
    return ServiceUnavailable(
        f"the catalogue's database at {url.host or url.database} cannot be reached;"
        " see that it runs, and check `[model] database_url`"
    )
