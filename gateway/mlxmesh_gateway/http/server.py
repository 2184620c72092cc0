"""The HTTP server: bound at the start, its libraries imported with the first client.

Importing them takes a quarter of a second, which start-up and meshes without HTTP clients save.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from typing import Any

from mlxmesh_gateway.http.listener import BoundedListener
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.host.host_port import split_host_port
from mlxmesh_shared.rpc import shared_port

_log = logging.getLogger(__name__)

BACKLOG = 128
GRACE_S = 2.0
"""For requests that run at the end, unless the caller says otherwise."""
REPORT_S = 1.0
"""For the responses of requests that were ended."""
ABORT_S = 1.0
"""Until the server is left whose connections were closed."""
RETRY_S = 1.0

MakeApp = Callable[[], Any]
"""Imports and creates the ASGI application; called on a thread."""


class HttpPort:
    """A bound port that answers while `serving`; a context manager that releases it."""

    def __init__(self, listen: str, *, take_over: bool = False) -> None:
        """Binds host:port, or nothing for an empty text; with take_over, beside another process's.

        Raises: IllegalState when the address cannot be listened on.
        """
        self._socket = _bind(listen, take_over=take_over) if listen else None
        self._host = listen.rpartition(":")[0]
        self._server: _LazyServer | None = None

    @property
    def address(self) -> str:
        """The bound host:port; empty without a port."""
        return f"{self._host}:{self._socket.getsockname()[1]}" if self._socket else ""

    def __enter__(self) -> HttpPort:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    @contextlib.asynccontextmanager
    async def serving(
        self,
        make_app: MakeApp,
        tls: Callable[[], ssl.SSLContext] | None = None,
        *,
        grace_s: float = GRACE_S,
        end_requests: Callable[[], None] = lambda: None,
        end_watches: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[None]:
        """Serves until the body ends, then drains, unless `start_drain` was called before.

        tls: creates the context of an HTTPS port.
        grace_s: how long requests may go on; streams take as long as their generations.
        end_requests: called then, for those that still run.
        end_watches: called at once, for those that would never end.
        """
        if self._socket is None:
            yield
            return
        self._server = _LazyServer(self._socket, make_app, tls, grace_s, end_requests, end_watches)
        try:
            yield
        finally:
            await self._server.start_drain()
            self._socket.close()

    async def leave(self) -> None:
        """Accepts no more connections; requests that run continue."""
        if self._socket is not None and self._server is not None:
            await self._server.leave()

    def start_drain(self) -> None:
        """Accepts no more connections, and ends requests that still run after the grace."""
        if self._server is not None:
            self._server.start_drain()


def _bind(listen: str, *, take_over: bool) -> BoundedListener:
    host, port = split_host_port(listen)
    try:
        # A shared port could be bound while another process listens on it.
        if not take_over and not shared_port.is_free(listen):
            raise OSError
        bound = socket.create_server(
            (host, int(port)),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
            reuse_port=shared_port.CAN_SHARE,
        )
        return BoundedListener(bound)
    except OSError as error:
        raise IllegalState(
            f"cannot listen on {listen} for HTTP; stop what uses it, choose another http_listen, or"
            " leave that empty to do without"
        ) from error


class _LazyServer:
    """Waits for the first connection, then runs uvicorn in this event loop."""

    def __init__(
        self,
        bound: BoundedListener,
        make_app: MakeApp,
        tls: Callable[[], ssl.SSLContext] | None,
        grace_s: float,
        end_requests: Callable[[], None],
        end_watches: Callable[[], None],
    ) -> None:
        self._socket = bound
        self._grace_s = grace_s
        self._end_requests = end_requests
        self._end_watches = end_watches
        self._drain: asyncio.Task[None] | None = None
        self._make_app = make_app
        self._tls = tls
        self._uvicorn: Any = None
        self._task = asyncio.create_task(self._run(), name="http")

    async def leave(self) -> None:
        await shared_port.until_none_waits(self._socket)
        if self._uvicorn is None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._socket.close()
            return
        while not (self._uvicorn.started or self._task.done()):  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(0.01)
        await shared_port.until_none_waits(self._socket)
        for server in self._uvicorn.servers:
            server.close()  # now, while nobody waits
        self._uvicorn.should_exit = True  # it goes on with its requests

    def start_drain(self) -> asyncio.Task[None]:
        """Begins the drain, or returns the one that has begun."""
        if self._drain is None:
            self._drain = asyncio.create_task(self._drained(), name="http-drain")
        return self._drain

    async def _drained(self) -> None:
        await self.leave()
        self._end_watches()
        if await self._ends_within(self._grace_s):
            return
        self._end_requests()
        if await self._ends_within(REPORT_S):
            return
        # uvicorn would cancel them, and log each as an error of the application.
        for connection in list(self._uvicorn.server_state.connections):
            connection.end()
        if not await self._ends_within(ABORT_S):
            self._uvicorn.force_exit = True
            await asyncio.wait({self._task})

    async def _ends_within(self, timeout_s: float) -> bool:
        await asyncio.wait({self._task}, timeout=timeout_s)
        return self._task.done()

    async def _run(self) -> None:
        while self._uvicorn is None:
            await _readable(self._socket)
            try:
                self._uvicorn = await asyncio.to_thread(self._load)
            except Exception:  # noqa: BLE001 - it must not end the port
                # For example while certificates are being renewed.
                _log.exception("the HTTP port cannot answer yet; trying again")
                await asyncio.sleep(RETRY_S)
        await self._uvicorn.serve(sockets=[self._socket])

    def _load(self) -> Any:
        uvicorn: Any = importlib.import_module("uvicorn")
        protocol = importlib.import_module("mlxmesh_gateway.http.protocol")
        listener = self._socket

        class Protocol(protocol.BoundedProtocol):  # type: ignore[misc, name-defined]
            on_made = listener.know
            on_lost = listener.forget

        class Server(uvicorn.Server):
            @contextlib.contextmanager
            def capture_signals(self) -> Any:
                # The gateway handles SIGTERM and stops this server itself.
                yield

        config = uvicorn.Config(
            self._make_app(),
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=Protocol,
            backlog=BACKLOG,
            ssl_context_factory=self._context_factory(),
        )
        config.load()
        return Server(config)

    def _context_factory(self) -> Any:
        tls = self._tls
        if tls is None:
            return None

        def context(_config: Any, _default: Any) -> ssl.SSLContext:
            return tls()

        return context


async def _readable(bound: socket.socket) -> None:
    """Returns at the first connection."""
    loop, connected = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(bound, connected.set)
    try:
        await connected.wait()
    finally:
        loop.remove_reader(bound)
