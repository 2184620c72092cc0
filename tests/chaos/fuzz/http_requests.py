"""Requests of the HTTP edges, made from bytes and sent to the application without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from starlette.routing import Route

from mlxmesh_gateway.door.entrance import CertificateAuthenticator, Entrance, NoQuotas
from mlxmesh_gateway.edges import edge_routes
from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.edge import EdgeParts
from mlxmesh_gateway.http.exchange import UnknownFields
from mlxmesh_gateway.http.served import ServedRequests
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.tls.identity import Role
from tests.fakes.door import FakeDoor

LIMIT_S = 5.0
_HEADERS = [
    (b"host", b"localhost"),
    (b"content-type", b"application/json"),
    (b"anthropic-version", b"2023-06-01"),
]
BODIES: list[dict[str, Any]] = [
    {"model": "pocket", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
    {
        "model": "pocket",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "max_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "system": "Be brief",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "stop": ["."],
        "stop_sequences": ["."],
        "logit_bias": {"5": 1},
        "seed": 7,
    },
    {"model": "pocket", "prompt": ["Hi"], "echo": False, "stream": True, "n": 1},
    {"model": "pocket", "input": "Hi", "instructions": "Be brief", "stream": True},
    {
        "id": "1",
        "inputs": [
            {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["Hi"]},
            {"name": "stream", "datatype": "BOOL", "shape": [1], "data": [True]},
        ],
        "parameters": {"max_tokens": 5},
    },
    {"text_input": "Hi", "parameters": {"temperature": "0.5"}, "stream": True},
]


class HttpRequests:
    """The application of all edges, before a door that answers at once."""

    def __init__(self) -> None:
        entrance = Entrance(
            authenticator=CertificateAuthenticator(Role.ROLE_ADMIN),
            access=None,
            quotas=NoQuotas(),
            admission=CallAdmission(ConcurrencyLimiter(100)),
        )
        parts = EdgeParts(
            door=HttpDoor(entrance, FakeDoor(), max_body_bytes=2**20, max_held_bytes=2**24),
            served=ServedRequests(),
            unknown_fields=UnknownFields(),
        )
        self._routes = [one for one in edge_routes(parts) if isinstance(one, Route)]
        self._app = create_app(None, self._routes)
        self._loop = asyncio.new_event_loop()

    def status(self, data: bytes) -> int:
        """The first two bytes choose the route, the next line is its parameter and query, and the
        rest is the body. Returns the status of the response, which must be whole.
        """
        if len(data) < 2:
            return 0
        route = self._routes[data[0] % len(self._routes)]
        line, _, body = data[2:].partition(b"\n")
        parameter, _, query = line.partition(b"?")
        path = "/".join(
            parameter.decode(errors="replace") if part.startswith("{") else part
            for part in route.path.split("/")
        )
        verb = "POST" if data[1] % 2 else sorted(route.methods or {"GET"})[0]
        coroutine = self._respond(verb, path, query, body)
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT_S))

    def seeds(self) -> list[bytes]:
        """A request of each route with each body."""
        return list(self._seeds())

    def _seeds(self) -> Iterator[bytes]:
        for number, route in enumerate(self._routes):
            bodies = BODIES if "POST" in (route.methods or ()) else [{}]
            for body in bodies:
                yield bytes([number, 0]) + b"pocket?a=1\n" + json.dumps(body).encode()

    async def _respond(self, verb: str, path: str, query: bytes, body: bytes) -> int:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": verb,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(errors="replace"),
            "query_string": query,
            "root_path": "",
            "headers": [*_HEADERS, (b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        sent: list[Any] = []
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if not unread:
                await asyncio.Event().wait()  # the client stays
            return unread.pop()

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        assert sent, "no response"
        assert not sent[-1].get("more_body", False), "the response has no end"
        return sent[0]["status"]
