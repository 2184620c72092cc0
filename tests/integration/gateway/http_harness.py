"""An HTTP port with one route of an edge."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from mlxmesh_gateway.door.call import PublicCall
from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.door import HttpDoor, ServesCalls
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.exchange import Exchange, UnknownFields
from mlxmesh_gateway.http.schema import Schema
from mlxmesh_gateway.http.served import ServedRequests
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from tests.fakes.open_entrance import open_entrance

GENERATE = "/mlxmesh.generation.v1.GenerationService/Generate"
MAX_BODY_BYTES = 200_000
Handle = Callable[[Exchange], Any]


class Echo(Schema):
    text: str


async def echo(exchange: Exchange) -> None:
    request = exchange.read(Echo)
    await exchange.respond(200, {"text": request.text, "caller": exchange.calls.principal.share})


async def answer_nothing(exchange: Exchange) -> None:
    await exchange.respond(200, {})


class Served:
    """An HTTP port with one route, /echo."""

    def __init__(self, door: ServesCalls) -> None:
        self.url = ""
        self.start_drain: Callable[[], None] = lambda: None
        self.limiter = ConcurrencyLimiter(4)
        self.door = HttpDoor(
            open_entrance(self.limiter), door, max_body_bytes=MAX_BODY_BYTES, max_held_bytes=10**6
        )

    async def post(self, body: Any = None, *, content: Any = None, **headers: str) -> Any:
        data = json.dumps(body).encode() if content is None else content
        own = {"content-type": "application/json"}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx2.AsyncClient() as client:
            return await client.post(self.url, content=data, headers=own | named)

    @asynccontextmanager
    async def streaming(self) -> AsyncGenerator[Any]:
        async with (
            httpx2.AsyncClient() as client,
            client.stream("POST", self.url, json={}) as answer,
        ):
            yield answer


class NoDoor:
    """These handlers make no calls."""

    async def serve(self, call: PublicCall) -> bytes | None:
        raise AssertionError


def error_body(error: MeshError, _status: int) -> object:
    return {"reason": error.reason, "field": error.field, "message": error.message}


@asynccontextmanager
async def serving(
    handle: Handle = echo,
    *,
    origins: tuple[str, ...] = (),
    keep_alive_s: float = 10,
    door: ServesCalls | None = None,
) -> AsyncGenerator[Served]:
    served = Served(door or NoDoor())
    parts = EdgeParts(
        door=served.door,
        served=ServedRequests(),
        unknown_fields=UnknownFields(),
        keep_alive_s=keep_alive_s,
    )
    route = parts.route(
        "POST", "/echo", method=GENERATE, handle=handle, error_body=error_body, request=Echo
    )
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(
            lambda: create_app(None, [route], origins=origins),
            grace_s=0.3,
            end_requests=served.door.end_calls,
        ):
            served.start_drain = port.start_drain
            served.url = f"http://{port.address}/echo"
            yield served
