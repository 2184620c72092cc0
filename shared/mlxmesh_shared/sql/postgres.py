"""A database in a PostgreSQL server."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import datetime
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from mlxmesh_shared.sql.urls import PostgresServer

MAX_CONNECTIONS = 10
LOCK_TIMEOUT_MS = 5000
_CONNECT_TIMEOUT_S = 10
_IDLE_TIMEOUT_MS = 60_000
_SETTINGS = {
    "application_name": "mlxmesh",
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    # A process that is suspended within a transaction must not block the others forever.
    "idle_in_transaction_session_timeout": str(_IDLE_TIMEOUT_MS),
}
# What the driver raises for a connection that the server has ended.
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def connect_arguments(url: PostgresServer) -> dict[str, Any]:
    """The driver's arguments that connect to a database."""
    # What the URL leaves out is left to the driver.
    named = {
        "host": url.host or None,
        "port": url.port or None,
        "user": url.user or None,
        "password": url.password or None,
        "ssl": url.ssl or None,
        "statement_cache_size": url.statement_cache_size,
    }
    return {
        **{name: value for name, value in named.items() if value is not None},
        "database": url.database,
        "timeout": _CONNECT_TIMEOUT_S,
        "server_settings": _SETTINGS,
    }


class PostgresDatabase:
    """Satisfies Database."""

    def __init__(self, url: PostgresServer, *, writer_lock: str) -> None:
        """Connects when it is first used.

        writer_lock: a statement that lets other writers wait until the transaction ends.
        """
        self._url = url
        self._writer_lock = writer_lock
        self._opening = asyncio.Lock()
        self._pool: Any = None

    async def tables(self) -> set[str]:
        async with self.reading() as session:
            rows = await session.fetch(
                "SELECT tablename FROM pg_catalog.pg_tables WHERE schemaname = current_schema()"
            )
        return {row["tablename"] for row in rows}

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator["_Session"]:
        async with self._transaction("repeatable_read") as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator["_Session"]:
        async with self._transaction("read_committed") as session:
            await session.fetch(self._writer_lock)
            yield session

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    @asynccontextmanager
    async def _transaction(self, isolation: str) -> AsyncGenerator["_Session"]:
        with _lost_connections_have_a_state():
            async with AsyncExitStack() as stack:
                yield await self._begun(stack, isolation)

    async def _begun(self, stack: AsyncExitStack, isolation: str) -> "_Session":
        """Skips connections that the server ended since they were last used."""
        pool = await self._opened()
        for _ in range(MAX_CONNECTIONS):
            async with AsyncExitStack() as attempt:
                connection = await attempt.enter_async_context(pool.acquire())
                try:
                    await attempt.enter_async_context(connection.transaction(isolation=isolation))
                except _LOST:
                    connection.terminate()
                    continue
                stack.push_async_exit(attempt.pop_all())
                return _Session(connection)
        raise asyncpg.ConnectionDoesNotExistError("the server ends every connection")

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType]
                    min_size=0, max_size=MAX_CONNECTIONS, **connect_arguments(self._url)
                )
        return self._pool


@contextmanager
def _lost_connections_have_a_state() -> Generator[None]:
    """The driver's own error for a connection that is closed has none of SQL's states."""
    try:
        yield
    except asyncpg.InterfaceError as error:
        if type(error) is not asyncpg.InterfaceError:
            raise
        raise asyncpg.ConnectionDoesNotExistError(str(error)) from error


class _Session:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: str | int | float | bytes | datetime) -> Sequence[Any]:
        return await self._connection.fetch(sql, *values)
