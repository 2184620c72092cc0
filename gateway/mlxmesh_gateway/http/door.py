"""The HTTP edges' way through the door: evidence from headers, and calls as messages."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.entrance import Entrance
from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.routes import Route, public_routes
from mlxmesh_gateway.forwarding.statuses import Metadata
from mlxmesh_shared.errors import Draining, InvalidArgument
from mlxmesh_shared.rpc.caller import CALLER_METADATA, checked_name
from mlxmesh_shared.rpc.requests.parser import SMALL_BYTES, HeldBytes
from mlxmesh_shared.tls.identity import PeerIdentity

TIMEOUT_MS = "mlxmesh-timeout-ms"
"""The header that sets a call's deadline; documented in docs/clients.md."""
MAX_TIMEOUT_MS = 10**9

M = TypeVar("M", bound=Message)
Write = Callable[[bytes], Awaitable[None]]


class ServesCalls(Protocol):
    """The door of the gateway."""

    async def serve(self, call: PublicCall) -> bytes | None:
        """As of Door."""
        ...


class HttpDoor:
    """Lets HTTP requests in and serves their calls."""

    def __init__(
        self,
        entrance: Entrance,
        door: ServesCalls,
        *,
        max_body_bytes: int,
        max_held_bytes: int,
        ready: Callable[[], bool] = lambda: True,
        routes: Sequence[Route] | None = None,
    ) -> None:
        """max_held_bytes: of all bodies above 64 KiB together, half of it for each caller.

        ready: whether the mesh can generate.
        routes: the methods that `door` serves; by default the public ones of other processes.
        """
        self.ready = ready
        self.max_body_bytes = max_body_bytes
        self._entrance = entrance
        self._door = door
        self._held_bytes = HeldBytes(max_held_bytes)
        # Tasks with a call, by its method, and those of them whose call a drain has ended.
        self._running: dict[asyncio.Task[Any], str] = {}
        self._ended: set[asyncio.Task[Any]] = set()
        self.routes = {route.path: route for route in routes or public_routes()}
        """Every method, by its path."""

    @asynccontextmanager
    async def admitted(
        self,
        method: str,
        headers: Mapping[str, str],
        *,
        credential: str,
        certificate: PeerIdentity,
        host: str,
        protocol: str = "grpc",
    ) -> AsyncGenerator[HttpCalls]:
        """Lets a request in, as a call of a method of the contracts, until the body ends.

        headers: by lower-case names. protocol: as of PublicCall.
        Raises: InvalidArgument, and as of Entrance.admit.
        """
        remaining_s = _remaining_s(headers)
        evidence = _evidence(headers, credential, certificate, host)
        admitted = await self._entrance.admit(method, evidence)
        try:
            metadata = tuple(headers.items())
            yield HttpCalls(self, admitted.principal, metadata, remaining_s, protocol=protocol)
        finally:
            admitted.release()

    async def check_known(
        self, headers: Mapping[str, str], *, credential: str, certificate: PeerIdentity, host: str
    ) -> None:
        """Lets in whoever is known, to what is no method of the contracts.

        Raises: InvalidArgument, and as of Entrance.check_known.
        """
        await self._entrance.check_known(_evidence(headers, credential, certificate, host))

    @property
    def held_bytes(self) -> int:
        """Of the large bodies of all requests in progress, also of those that are arriving."""
        return self._held_bytes.held_bytes

    @contextmanager
    def counting(self, principal: Principal) -> Generator[Callable[[int], None]]:
        """Counts the bytes of a large body until the `with` ends.

        Yields what takes its size whenever that has grown; it raises TooManyRequests.
        """
        counted_bytes = 0

        def count(size_bytes: int) -> None:
            nonlocal counted_bytes
            if size_bytes > SMALL_BYTES:
                self._held_bytes.acquire(principal.share, size_bytes - counted_bytes)
                counted_bytes = size_bytes

        try:
            yield count
        finally:
            if counted_bytes:
                self._held_bytes.release(principal.share, counted_bytes)

    async def serve(self, path: str, request: Message, calls: HttpCalls, write: Write) -> bytes:
        """Passes the door with one call. Raises: MeshError; Draining after `end_calls`."""
        call = PublicCall(
            route=self.routes[path],
            principal=calls.principal,
            request=encoded(request),
            metadata=calls.metadata,
            remaining_s=calls.remaining_s,
            write=write,
            protocol=calls.protocol,
            metered=calls.metered,
        )
        with self._endable(path):
            return await self._door.serve(call) or b""

    def end_calls(self) -> None:
        """Ends the running calls as DRAINING, which their edges report in their ways."""
        self._end(list(self._running))

    def end_watches(self) -> None:
        """Ends the calls that last until their caller ends them, also as DRAINING."""
        self._end([task for task, path in self._running.items() if _watches(path)])

    def _end(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        for task in tasks:
            if task not in self._ended:
                self._ended.add(task)
                task.cancel()

    @contextmanager
    def _endable(self, path: str) -> Generator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._running[task] = path
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise Draining("this gateway is stopping; try again") from None
        finally:
            self._running.pop(task, None)
            self._ended.discard(task)


class HttpCalls:
    """The calls of one HTTP request that was let in."""

    def __init__(
        self,
        door: HttpDoor,
        principal: Principal,
        metadata: Metadata,
        remaining_s: float | None,
        *,
        metered: bool = True,
        until_s: float | None = None,
        protocol: str = "grpc",
    ) -> None:
        """metered, protocol: as of PublicCall.

        until_s: of the monotonic clock; instead of remaining_s.
        """
        self.metered = metered
        self.protocol = protocol
        self.principal = principal
        self.metadata = metadata
        self._remaining_s = remaining_s
        self._until_s = until_s
        self._door = door

    @property
    def remaining_s(self) -> float | None:
        """What a call that begins now may take; None without a deadline of the client."""
        if self._until_s is None:
            return self._remaining_s
        return max(0.0, self._until_s - time.monotonic())

    @remaining_s.setter
    def remaining_s(self, value: float | None) -> None:
        self._remaining_s = value

    @property
    def expired(self) -> bool:
        """Whether the deadline that several calls share is over."""
        return self._until_s is not None and self._until_s <= time.monotonic()

    def within(self, total_s: float) -> HttpCalls:
        """The same, for calls that together may take so long from now on."""
        return self._with(None, metered=self.metered, until_s=time.monotonic() + total_s)

    def lasting(self) -> HttpCalls:
        """The same, with the longest deadline unless the client has set one."""
        return self._with(
            math.inf if self.remaining_s is None else self.remaining_s, metered=self.metered
        )

    def unmetered(self) -> HttpCalls:
        """The same, for a generation whose output the client does not get."""
        return self._with(self.remaining_s, metered=False)

    def _with(
        self, remaining_s: float | None, *, metered: bool, until_s: float | None = None
    ) -> HttpCalls:
        return HttpCalls(
            self._door,
            self.principal,
            self.metadata,
            remaining_s,
            metered=metered,
            until_s=until_s,
            protocol=self.protocol,
        )

    @property
    def ready(self) -> bool:
        """Whether the mesh can generate."""
        return self._door.ready()

    @property
    def max_body_bytes(self) -> int:
        """The largest body."""
        return self._door.max_body_bytes

    async def unary(self, path: str, request: Message, response_class: type[M]) -> M:
        """The response of a unary method. Raises: MeshError."""
        response = await self._door.serve(path, request, self, _no_stream)
        return response_class.FromString(response)

    async def stream(self, path: str, request: Message, write: Write) -> None:
        """Writes each encoded message of a stream, waiting while `write` does; returns at its end.

        Raises: MeshError; messages may have been written before.
        """
        await self._door.serve(path, request, self, write)


def encoded(message: Message) -> bytes:
    """The message on the wire. Raises: InvalidArgument for text that is not Unicode."""
    try:
        return message.SerializeToString()
    except (UnicodeEncodeError, ValueError):
        raise InvalidArgument(
            "a text contains half of a surrogate pair, which is no character"
        ) from None


def _watches(path: str) -> bool:
    return path.rpartition("/")[2].startswith("Watch")


async def _no_stream(_message: bytes) -> None:
    raise AssertionError("a unary method writes no stream")


def _evidence(
    headers: Mapping[str, str], credential: str, certificate: PeerIdentity, host: str
) -> Evidence:
    claimed = headers.get(CALLER_METADATA)
    return Evidence(
        certificate=certificate,
        credential=credential,
        claimed_name="" if claimed is None else checked_name(claimed),
        host=host,
    )


def _remaining_s(headers: Mapping[str, str]) -> float | None:
    asked = headers.get(TIMEOUT_MS)
    if asked is None:
        return None
    if (
        asked.isascii()
        and asked.isdigit()
        and len(asked) <= 10
        and 1 <= int(asked) <= MAX_TIMEOUT_MS
    ):
        return int(asked) / 1000
    raise InvalidArgument(
        f"the header {TIMEOUT_MS} must be a whole number from 1 to {MAX_TIMEOUT_MS}",
        field=TIMEOUT_MS,
    )
