"""A database in a PostgreSQL server."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from datetime import datetime
from functools import partial
from typing import Any

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from mlxmesh_shared.sql.urls import PostgresServer

MAX_CONNECTIONS = 10
LOCK_TIMEOUT_MS = 5000
_CONNECT_TIMEOUT_S = 10
_IDLE_TIMEOUT_MS = 60_000
_MAX_PREPARED_BYTES = 262_144
"""Longer statements are not kept prepared; those on many rows are long."""
_SETTINGS = {
    "application_name": "mlxmesh",
    "lock_timeout": str(LOCK_TIMEOUT_MS),
    # A process that is suspended within a transaction must not block the others forever.
    "idle_in_transaction_session_timeout": str(_IDLE_TIMEOUT_MS),
}
# What the driver raises for a connection that the server has ended.
_LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
_Begin = Callable[[Any], AbstractAsyncContextManager[Any]]
"""Begins a transaction of a connection."""


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
        async with self._transaction(_reading) as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator["_Session"]:
        async with self._transaction(partial(_writing, lock=self._writer_lock)) as session:
            yield session

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    @asynccontextmanager
    async def _transaction(self, begin: _Begin) -> AsyncGenerator["_Session"]:
        with _lost_connections_have_a_state():
            async with AsyncExitStack() as stack:
                yield await self._begun(stack, begin)

    async def _begun(self, stack: AsyncExitStack, begin: _Begin) -> "_Session":
        """Skips connections that the server ended since they were last used."""
        pool = await self._opened()
        for _ in range(MAX_CONNECTIONS):
            async with AsyncExitStack() as attempt:
                connection = await attempt.enter_async_context(pool.acquire())
                try:
                    await attempt.enter_async_context(begin(connection))
                except _LOST as error:
                    if getattr(error, "severity_en", None) == "ERROR":
                        raise  # of the lock: the connection lives
                    connection.terminate()
                    continue
                stack.push_async_exit(attempt.pop_all())
                return _Session(connection)
        raise asyncpg.ConnectionDoesNotExistError("the server ends every connection")

    async def _opened(self) -> Any:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(  # pyright: ignore[reportUnknownMemberType]
                    min_size=0,
                    max_size=MAX_CONNECTIONS,
                    connection_class=_Connection,
                    max_cacheable_statement_size=_MAX_PREPARED_BYTES,
                    **connect_arguments(self._url),
                )
        return self._pool


class _Connection(asyncpg.Connection):
    """Nothing here changes the state of a session, so none is reset after each transaction."""

    def get_reset_query(self) -> str:
        return ""


def _reading(connection: Any) -> AbstractAsyncContextManager[Any]:
    return connection.transaction(isolation="repeatable_read")


@asynccontextmanager
async def _writing(connection: Any, *, lock: str) -> AsyncGenerator[None]:
    """A transaction that begins with the lock of writers, in one round trip."""
    try:
        await connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {lock}")
        yield
    except BaseException:
        with suppress(*_LOST):  # the first error says more
            if not connection.is_closed() and connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        raise
    await connection.execute("COMMIT")


@contextmanager
def _lost_connections_have_a_state() -> Generator[None]:
    """The driver's own errors for a connection that is closed, or just closes, have none of SQL's
    states.
    """
    try:
        yield
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if type(error) not in (asyncpg.InterfaceError, asyncpg.InternalClientError):
            raise
        raise asyncpg.ConnectionDoesNotExistError(str(error)) from error


class _Session:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: str | int | float | bytes | datetime) -> Sequence[Any]:
        return await self._connection.fetch(sql, *values)
