"""A door that knows every public method, and an HTTP port in front of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx2
from google.protobuf.message import Message

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.edges import edge_routes
from mlxmesh_gateway.forwarding.routes import PUBLIC_SERVICES, public_routes
from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.exchange import UnknownFields
from mlxmesh_gateway.http.served import ServedRequests
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rules import Validator
from tests.fakes.open_entrance import open_entrance

MAX_BODY_BYTES = 400_000


class AnyDoor:
    """Satisfies ServesCalls: notes each call, and answers with what a test has set."""

    def __init__(self, *, checks: bool = False) -> None:
        """checks: whether requests must obey the contract's rules, as at the door."""
        self.calls: list[PublicCall] = []
        self.responses: Sequence[Message] = []
        """Of every call: the response, or the messages of a stream; empty for an empty one."""
        self.error: MeshError | None = None
        """Raised after the responses."""
        self.waits = False
        """Whether calls go on after their responses until they are cancelled."""
        self.cancelled = asyncio.Event()
        self.written = 0
        self._checks = checks
        self._parser = RequestParser(Validator.for_services(*PUBLIC_SERVICES))

    async def serve(self, call: PublicCall) -> bytes | None:
        self.calls.append(call)
        if self._checks:
            await self._parser.parse(call.route.request_class, call.request, lambda: "")
        encoded = [one.SerializeToString() for one in self.responses]
        if call.route.streams:
            for one in encoded:
                await call.write(one)
                self.written += 1
        if self.waits:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled.set()
        if self.error is not None:
            raise self.error
        return None if call.route.streams else (encoded or [b""])[0]

    @property
    def request(self) -> Message:
        """The last request."""
        call = self.calls[-1]
        return call.route.request_class.FromString(call.request)


class ServedEdge:
    """An HTTP port with all edges."""

    def __init__(self, url: str, http: HttpDoor, start_drain: Callable[[], None]) -> None:
        self.url = url
        self.http = http
        self.start_drain = start_drain
        self.client = httpx2.AsyncClient(base_url=url, timeout=20)


@asynccontextmanager
async def serving_connect(
    door: AnyDoor,
    *,
    keep_alive_s: float = 10,
    refuse_unknown: bool = False,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> AsyncGenerator[ServedEdge]:
    """Everybody may do everything."""
    http = HttpDoor(
        open_entrance(ConcurrencyLimiter(100)),
        door,
        max_body_bytes=max_body_bytes,
        max_held_bytes=max(2**22, 4 * max_body_bytes),
        routes=public_routes(),
    )
    parts = EdgeParts(
        door=http,
        served=ServedRequests(),
        unknown_fields=UnknownFields(refuse=refuse_unknown),
        keep_alive_s=keep_alive_s,
    )
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(
            lambda: create_app(None, edge_routes(parts)),
            grace_s=0.3,
            end_requests=http.end_calls,
            end_watches=http.end_watches,
        ):
            served = ServedEdge(f"http://{port.address}", http, port.start_drain)
            async with served.client:
                yield served
