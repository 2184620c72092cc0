"""The HTTP edges' way through the door: evidence from headers, and calls as messages."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.door.entrance import Entrance
from mlxmesh_gateway.door.evidence import Evidence
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.routes import public_routes
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
    ) -> None:
        """max_held_bytes: of all bodies above 64 KiB together, half of it for each caller.

        ready: whether the mesh can generate.
        """
        self.ready = ready
        self.max_body_bytes = max_body_bytes
        self._entrance = entrance
        self._door = door
        self._held_bytes = HeldBytes(max_held_bytes)
        # Tasks with a call, and those of them whose call a drain has ended.
        self._running: set[asyncio.Task[Any]] = set()
        self._ended: set[asyncio.Task[Any]] = set()
        self._routes = {route.path: route for route in public_routes()}

    @asynccontextmanager
    async def admitted(
        self,
        method: str,
        headers: Mapping[str, str],
        *,
        credential: str,
        certificate: PeerIdentity,
        host: str,
    ) -> AsyncGenerator[HttpCalls]:
        """Lets a request in, as a call of a method of the contracts, until the body ends.

        headers: by lower-case names. Raises: InvalidArgument, and as of Entrance.admit.
        """
        remaining_s = _remaining_s(headers)
        evidence = _evidence(headers, credential, certificate, host)
        admitted = await self._entrance.admit(method, evidence)
        try:
            yield HttpCalls(self, admitted.principal, tuple(headers.items()), remaining_s)
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
            route=self._routes[path],
            principal=calls.principal,
            request=encoded(request),
            metadata=calls.metadata,
            remaining_s=calls.remaining_s,
            write=write,
            metered=calls.metered,
        )
        with self._endable():
            return await self._door.serve(call) or b""

    def end_calls(self) -> None:
        """Ends the running calls as DRAINING, which their edges report in their ways."""
        for task in self._running - self._ended:
            self._ended.add(task)
            task.cancel()

    @contextmanager
    def _endable(self) -> Generator[None]:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise Draining("this gateway is stopping; try again") from None
        finally:
            self._running.discard(task)
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
    ) -> None:
        """metered: as of PublicCall."""
        self.metered = metered
        self.principal = principal
        self.metadata = metadata
        self.remaining_s = remaining_s
        self._door = door

    def lasting(self) -> HttpCalls:
        """The same, with the longest deadline unless the client has set one."""
        remaining_s = math.inf if self.remaining_s is None else self.remaining_s
        return HttpCalls(
            self._door, self.principal, self.metadata, remaining_s, metered=self.metered
        )

    def unmetered(self) -> HttpCalls:
        """The same, for a generation whose output the client does not get."""
        return HttpCalls(self._door, self.principal, self.metadata, self.remaining_s, metered=False)

    @property
    def ready(self) -> bool:
        """Whether the mesh can generate."""
        return self._door.ready()

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
