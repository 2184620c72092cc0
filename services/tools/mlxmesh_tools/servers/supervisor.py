"""Keeps one MCP server connected, and knows its tools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from mlxmesh_shared.errors import MeshError, QueueFull, ToolServerUnavailable
from mlxmesh_tools.domain import limits
from mlxmesh_tools.domain.listing import usable_tools
from mlxmesh_tools.domain.models import Http, ServerConfig, ServerStatus, State
from mlxmesh_tools.domain.ports import Connect, Connection, Observer, RawResult
from mlxmesh_tools.failures import to_facts

MIN_DELAY_S, MAX_DELAY_S = 0.5, 60.0
STEADY_S = 30.0
"""A session that lasted this long begins the backoff anew."""
RELIST_INTERVAL_S = 60.0
"""How often a server over HTTP is asked for its tools: it cannot be seen to end."""
_MIN_RELIST_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a supervisor waits."""

    connect_timeout_s: float = 30.0
    min_delay_s: float = MIN_DELAY_S
    max_delay_s: float = MAX_DELAY_S
    relist_interval_s: float = RELIST_INTERVAL_S


DEFAULT_TIMING = Timing()


class Supervisor:
    """One server: connected, and connected again with backoff after it was lost."""

    def __init__(
        self,
        config: ServerConfig,
        connect: Connect,
        observer: Observer,
        *,
        timing: Timing = DEFAULT_TIMING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: seconds that never go backwards."""
        self.config = config
        self.status = ServerStatus(state=State.CONNECTING)
        self._connect = connect
        self._observer = observer
        self._timing = timing
        self._clock = clock
        self._connection: Connection | None = None
        self._asked = asyncio.Event()
        """Set when the server shall be asked for its tools now."""
        self._news = asyncio.Condition()
        self._places = asyncio.Semaphore(config.limits.max_calls_at_once)
        self.waiting = 0
        """Calls behind those that run."""
        self._ready_s = 0.0
        self._was_ready = False
        """Whether the last session had begun before it failed."""

    async def run(self) -> None:
        """Until cancelled, which ends the server's process."""
        while True:
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(MeshError),
                wait=wait_random_exponential(
                    multiplier=self._timing.min_delay_s, max=self._timing.max_delay_s
                ),
                sleep=self._sleep,
            )
            async for attempt in retrying:
                with attempt:
                    await self._session()

    async def refresh(self) -> None:
        """Asks for the tools again, or connects now; returns once that has succeeded or failed."""
        self._asked.set()
        timeout_s = self._timing.connect_timeout_s + 1
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait()
                await self._news.wait_for(lambda: self.status.state is not State.CONNECTING)

    async def settled(self, timeout_s: float | None = None) -> None:
        """Returns once an attempt to connect that goes on has succeeded or failed."""
        await self._until(lambda: self.status.state is not State.CONNECTING, timeout_s)

    async def call(self, tool: str, arguments: dict[str, Any], *, timeout_s: float) -> RawResult:
        """Calls a tool when there is room, in the order of arrival.

        Raises: ToolServerUnavailable, QueueFull, DeadlineExceeded.
        """
        if self.waiting >= limits.MAX_WAITING_CALLS:
            raise QueueFull(
                f"too many calls wait for the MCP server {self.config.name}", retry_delay_s=1
            )
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        try:
            connection = await self._connected(timeout_s)
            return await connection.call(tool, arguments, timeout_s=timeout_s)
        except ToolServerUnavailable as error:
            raise self.lost(error.message) from error
        finally:
            self._places.release()

    async def _connected(self, timeout_s: float) -> Connection:
        """Waits for a server that is being connected, or was just lost and is connected again."""
        if not self._is_connected():
            if self.status.state is State.FAILED:
                self._asked.set()
            await self._until(self._has_settled, timeout_s)
        connection = self._connection
        if connection is None or connection.closed.is_set():
            failure = self.status.failure
            raise ToolServerUnavailable(failure.message if failure else "it is being connected")
        return connection

    def _is_connected(self) -> bool:
        return self._connection is not None and not self._connection.closed.is_set()

    def _has_settled(self) -> bool:
        """Whether waiting for a connection has no use: there is one, or there was none lately."""
        return self._is_connected() or (self.status.state is State.FAILED and not self._was_ready)

    def lost(self, why: str) -> ToolServerUnavailable:
        """The error of a call that the server cannot take."""
        name = self.config.name
        return ToolServerUnavailable(
            f"the MCP server {name} cannot be reached: {why}", retry_delay_s=1
        )

    async def _session(self) -> None:
        """One connection; returns only after one that lasted. Raises: MeshError."""
        self._ready_s = 0.0
        try:
            async with AsyncExitStack() as stack:
                connection = await self._begin(stack)
                await self._follow(connection)
        except MeshError as error:
            if _is_cancelled():
                raise asyncio.CancelledError from error
            await self._failed(error)
            if not self._ready_s or self._clock() - self._ready_s < STEADY_S:
                raise
        finally:
            self._connection = None

    async def _begin(self, stack: AsyncExitStack) -> Connection:
        """A connection whose tools are known. Raises: MeshError."""
        await self._tell(replace(self.status, state=State.CONNECTING))
        self._asked.clear()
        timeout_s = self._timing.connect_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                connection = await stack.enter_async_context(self._connect(self.config))
                await self._list(connection)
        except TimeoutError:
            raise ToolServerUnavailable(f"it did not answer within {timeout_s:g} s") from None
        self._connection = connection
        self._ready_s = self._clock()
        return connection

    async def _follow(self, connection: Connection) -> None:
        """Until the connection is closed. Raises: MeshError."""
        interval_s = None
        if isinstance(self.config.transport, Http):
            interval_s = self._timing.relist_interval_s
        while not connection.closed.is_set():
            events = (connection.closed, connection.changed, self._asked)
            await _first_of(events, timeout_s=interval_s)
            if connection.closed.is_set():
                break
            connection.changed.clear()
            self._asked.clear()
            try:
                async with asyncio.timeout(self._timing.connect_timeout_s):
                    await self._list(connection)
            except TimeoutError:
                raise ToolServerUnavailable("it did not list its tools in time") from None
            # A server that always changes is not asked all the time.
            await _first_of((connection.closed, self._asked), timeout_s=_MIN_RELIST_S)

    async def _list(self, connection: Connection) -> None:
        tools, left_out = usable_tools(self.config.name, await connection.list_tools())
        status = ServerStatus(
            state=State.READY,
            server_name=connection.server_name,
            server_version=connection.server_version,
            tools=tools,
            left_out=left_out,
        )
        self._connection = connection
        await self._tell(status)

    async def _failed(self, error: MeshError) -> None:
        """Keeps what is known of the tools: they are probably there again soon."""
        self._connection = None
        self._was_ready = bool(self._ready_s)
        await self._tell(replace(self.status, state=State.FAILED, failure=to_facts(error)))

    async def _tell(self, status: ServerStatus) -> None:
        before, self.status = self.status, status
        if status != before:
            self._observer.server_changed(self.config, status)
        async with self._news:
            self._news.notify_all()

    async def _until(self, reached: Callable[[], bool], timeout_s: float | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._news:
                await self._news.wait_for(reached)

    async def _sleep(self, delay_s: float) -> None:
        """Ends earlier when somebody asks."""
        await _first_of((self._asked,), timeout_s=delay_s)


def _is_cancelled() -> bool:
    """A session that breaks while it is cancelled may raise its own error instead: a task group
    does so when a task of its own has failed.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _first_of(events: Sequence[asyncio.Event], *, timeout_s: float | None) -> None:
    """Returns once one of the events is set, or the time is over."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
