"""Transactions on a database, which other processes may use concurrently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import wraps
from types import CoroutineType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from mlxmesh_shared.errors import DatabaseBusy, DiskFull, ServiceUnavailable
from mlxmesh_shared.sql.database import Database, Session
from mlxmesh_shared.sql.errors import busy, explained, retrying
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")

OF_THE_DATABASE = (DatabaseBusy, DiskFull, ServiceUnavailable)
"""Errors that no statement is to blame for; another attempt may succeed."""


class Transactions:
    """Each read sees one state of the database; writes are serialized."""

    def __init__(
        self,
        url: DatabaseUrl,
        schema: Schema,
        database: Database,
        *,
        max_wait_s: float | None = None,
    ) -> None:
        """Takes ownership of the database.

        max_wait_s: how long a write waits for others before it fails with DatabaseBusy, about;
        None for as long as others in this process take, and for several attempts at the database.
        """
        self._url = url
        self._schema = schema
        self._database = database
        self._max_wait_s = max_wait_s
        # Within this process, waiting for a lock is cheaper than waiting in the database.
        self._writing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Closes the database after running operations have ended."""
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._database.close()

    def run_to_completion(self, operation: Coroutine[Any, Any, _Result]) -> asyncio.Task[_Result]:
        """A task that `close` waits for, even if its caller is cancelled."""
        task = asyncio.create_task(operation)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def read(self, statements: Callable[[Session], Awaitable[_Result]]) -> _Result:
        """The result of the statements, which may run more than once. Raises: MeshError."""
        async for attempt in retrying():
            with attempt, explained(self._url, self._schema):
                async with self._database.reading() as session:
                    return await statements(session)
        raise AssertionError("retrying ends with a result or an error")

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[Session]:
        """A transaction isolated from all other changes. Raises: MeshError."""
        await self._wait_for_writers()
        try:
            with explained(self._url, self._schema):
                async with AsyncExitStack() as stack:
                    yield await self._begin(stack)
        finally:
            self._writing.release()

    @asynccontextmanager
    async def part(self, session: Session) -> AsyncGenerator[None]:
        """A part of a transaction that has no effect if its body raises, so that the caller may
        catch that and go on. Not within another part.

        Raises: DatabaseBusy, ServiceUnavailable and DiskFull, with which the whole transaction has
        to end.
        """
        await session.fetch("SAVEPOINT part")
        try:
            with explained(self._url, self._schema):
                yield
        except OF_THE_DATABASE:
            raise
        except BaseException:
            await session.fetch("ROLLBACK TO SAVEPOINT part")
            await session.fetch("RELEASE SAVEPOINT part")
            raise
        await session.fetch("RELEASE SAVEPOINT part")

    async def _wait_for_writers(self) -> None:
        """Acquires the lock of this process's writers."""
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._writing.acquire()
        except TimeoutError:
            raise busy(self._schema) from None

    async def _begin(self, stack: AsyncExitStack) -> Session:
        """Begins a transaction; the stack ends it."""
        async for attempt in retrying(self._max_wait_s):
            with attempt, explained(self._url, self._schema):
                return await stack.enter_async_context(self._database.writing())
        raise AssertionError("retrying ends with a result or an error")


class _HasTransactions(Protocol):
    @property
    def transactions(self) -> Transactions: ...


_Owner = TypeVar("_Owner", bound=_HasTransactions)


def uncancellable(
    method: Callable[Concatenate[_Owner, _Args], Coroutine[Any, Any, _Result]],
) -> Callable[Concatenate[_Owner, _Args], CoroutineType[Any, Any, _Result]]:
    """Completes a method even when its caller is cancelled, because an interrupted statement can
    leave its connection, or the whole pool, unusable.
    """

    @wraps(method)
    async def run(owner: _Owner, *args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        return await asyncio.shield(
            owner.transactions.run_to_completion(method(owner, *args, **kwargs))
        )

    return run
