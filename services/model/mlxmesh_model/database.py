"""The database behind the catalogue: SQLite by default, PostgreSQL by URL."""

from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, event, inspect, make_url, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

HEAD = "0002"
"""The newest revision in `migrations/versions`."""


async def open_database(url: str) -> AsyncEngine:
    """An engine on a database that has been brought up to date; the caller disposes of it."""
    parsed = make_url(url)
    engine = create_async_engine(parsed)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine.sync_engine, "connect", _tune_sqlite)
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)
    return engine


class _Connection(Protocol):
    """The part of a DB-API connection that is used here."""

    def execute(self, sql: str, /) -> Any: ...


def _tune_sqlite(connection: _Connection, _record: object) -> None:
    """Readers beside one writer, enforced foreign keys, a wait instead of an error on a lock."""
    for pragma in ["journal_mode=WAL", "foreign_keys=ON", "busy_timeout=5000"]:
        connection.execute(f"PRAGMA {pragma}").close()


def _upgrade(connection: Connection) -> None:
    if _revision(connection) == HEAD:
        return
    # Not at the top: it is slow to import and only a change of the tables needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "mlxmesh_model:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, HEAD)


def _revision(connection: Connection) -> str | None:
    """The revision of the tables that are there, None in an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
