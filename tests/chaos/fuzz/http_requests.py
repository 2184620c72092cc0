"""Requests of the HTTP edges, made from bytes and sent to the application without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

# The first request of /mcp imports these, for longer than LIMIT_S on a busy machine.
import mcp.server.streamable_http_manager  # noqa: F401
from starlette.routing import Route

import mlxmesh_shared.mcp_server.server  # noqa: F401
from mlxmesh_gateway.http.endpoint import Endpoint
from tests.fakes.http_edges import edges_app

LIMIT_S = 5.0
_JSON = b"application/json"
_FORM = b"multipart/form-data; boundary=limit"
FORM = (
    b'--limit\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--limit\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n'
    b"content-type: application/jsonl\r\n\r\n{}\r\n--limit--\r\n"
)
_HEADERS = [
    (b"host", b"localhost"),
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
        self._app = edges_app()
        self._routes = [one for one in self._app.routes if isinstance(one, Route)]
        self._loop = asyncio.new_event_loop()

    def status(self, data: bytes) -> int:
        """The first byte chooses the route, and the second its method and how many bytes after the
        JSON are values of tensors. The next line is the route's parameter and query, and the rest
        is the body. Returns the status of the response, which must be whole.
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
        coroutine = self._respond(
            verb,
            path,
            query,
            body,
            values_bytes=data[1] // 2,
            kind=_FORM if _takes_form(route) else _JSON,
        )
        return self._loop.run_until_complete(asyncio.wait_for(coroutine, LIMIT_S))

    def seeds(self) -> list[bytes]:
        """A request of each route with each body."""
        return list(self._seeds())

    def _seeds(self) -> Iterator[bytes]:
        for number, route in enumerate(self._routes):
            bodies = BODIES if "POST" in (route.methods or ()) else [{}]
            for body in bodies:
                yield bytes([number, 0]) + b"pocket?a=1\n" + json.dumps(body).encode()
            if _takes_form(route):
                yield bytes([number, 1]) + b"pocket?a=1\n" + FORM

    async def _respond(
        self, verb: str, path: str, query: bytes, body: bytes, *, values_bytes: int, kind: bytes
    ) -> int:
        length = str(len(body)).encode()
        headers = [*_HEADERS, (b"content-type", kind), (b"content-length", length)]
        if values_bytes:
            json_bytes = max(0, len(body) - values_bytes)
            headers.append((b"inference-header-content-length", str(json_bytes).encode()))
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
            "headers": headers,
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


def _takes_form(route: Route) -> bool:
    return isinstance(route.endpoint, Endpoint) and route.endpoint.streams_body
