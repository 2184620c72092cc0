"""One HTTP request that was let in, and its response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mlxmesh_gateway.http.door import HttpCalls
from mlxmesh_gateway.http.schema import LEGAL_NAME, MAX_TOLD, Schema, read_request

KEEP_ALIVE_S = 10.0
"""How long an event stream may be silent before something is sent to keep it alive."""
_COMMENT = b": keep-alive\n\n"
_EVENT_STREAM = [
    ("content-type", "text/event-stream; charset=utf-8"),
    ("cache-control", "no-cache"),
    ("x-accel-buffering", "no"),  # proxies of the nginx kind would collect events
]

IGNORED_FIELDS = "mlxmesh-ignored-fields"
"""The header of a response that names the fields of the request that no protocol has."""

Headers = Iterable[tuple[str, str]]
T = TypeVar("T", bound=Schema)


@dataclass
class UnknownFields:
    """What is done with fields that no protocol has, and how often there were any."""

    refuse: bool = False
    requests: int = 0
    """Since the start."""


async def send_json(
    send: Any,
    status: int,
    body: object,
    headers: Headers = (),
    *,
    content_type: str = "application/json",
) -> None:
    """Sends a whole response: JSON, or bytes as they are."""
    data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    own = [("content-type", content_type), ("content-length", str(len(data))), *headers]
    await send(_start_message(status, own))
    await send({"type": "http.response.body", "body": data})


def _start_message(status: int, headers: Headers) -> dict[str, Any]:
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return {"type": "http.response.start", "status": status, "headers": encoded}


class Exchange:
    """What a handler reads its request from and writes its response to."""

    def __init__(
        self,
        *,
        calls: HttpCalls,
        scope: Mapping[str, Any],
        headers: Mapping[str, str],
        body: Mapping[str, Any],
        send: Any,
        unknown_fields: UnknownFields,
        keep_alive_s: float = KEEP_ALIVE_S,
        request_id: str = "",
        parts: AsyncIterator[bytes] | None = None,
        count: Callable[[int], None] = lambda _: None,
    ) -> None:
        """body: the JSON object of the request; empty for methods without a body.

        parts: the body as it arrives, for handlers that read it so.
        count: takes the size of what the body was expanded to; raises TooManyRequests.
        """
        self.count = count
        self._parts = parts
        self.scope = scope
        """Of ASGI."""
        self.calls = calls
        self.request_id = request_id
        """Names the request in its response and in errors."""
        self.headers = headers
        """Of the request, by lower-case names."""
        self.body = body
        self.path_params: Mapping[str, str] = scope.get("path_params", {})
        self.query: bytes = scope.get("query_string", b"")
        self.response_headers: list[tuple[str, str]] = []
        """Sent with the response in addition to its own."""
        self.started = False
        """Whether the status was sent, so that an error needs a place in the body."""
        self._send = send
        self._unknown_fields = unknown_fields
        self._keep_alive_s = keep_alive_s
        self._last_write_s = 0.0
        self._writing = asyncio.Lock()
        self._keep_alive: asyncio.Task[None] | None = None

    def read(self, cls: type[T]) -> T:
        """The request; unknown fields are told in a header of the response.

        Raises: InvalidArgument, FeatureNotSupported.
        """
        request, unknown = read_request(cls, self.body, refuse_unknown=self._unknown_fields.refuse)
        self.tell_ignored(unknown)
        return request

    @property
    def refuse_unknown(self) -> bool:
        """Whether a field that no protocol has is an error."""
        return self._unknown_fields.refuse

    def tell_ignored(self, names: Sequence[str]) -> None:
        """Names what is ignored, in a header of the response."""
        if names:
            self._unknown_fields.requests += 1
        paths = [path for name in names if (path := _in_a_header(name))]
        if told := list(dict.fromkeys(paths))[:MAX_TOLD]:
            self.response_headers.append((IGNORED_FIELDS, ", ".join(told)))

    async def respond(
        self,
        status: int,
        body: object,
        headers: Headers = (),
        *,
        content_type: str = "application/json",
    ) -> None:
        """Sends a whole response: JSON, or bytes as they are."""
        self.started = True
        every = [*headers, *self.response_headers]
        await send_json(self._send, status, body, every, content_type=content_type)

    async def delegate(self, app: Any, body: bytes, extra: Mapping[str, Any]) -> None:
        """Has an ASGI application respond. extra: of its scope."""
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Mapping[str, Any]:
            if parts:
                return parts.pop()
            await asyncio.Event().wait()  # this handler is cancelled when the client is gone
            raise AssertionError

        async def send(message: Mapping[str, Any]) -> None:
            self.started = True
            await self._send(message)

        await app({**self.scope, **extra}, receive, send)

    def body_parts(self) -> AsyncIterator[bytes]:
        """The body as it arrives; only for routes that stream it."""
        assert self._parts is not None
        return self._parts

    async def begin_stream(self, headers: Headers = (), *, content_type: str) -> None:
        """Begins a response of bytes; its length is known, or ends with the stream."""
        self.started = True
        own = [("content-type", content_type), *headers, *self.response_headers]
        await self._send(_start_message(200, own))

    async def write_stream(self, data: bytes) -> None:
        """Sends the next bytes; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self) -> None:
        """Ends a response of bytes."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def event(self, data: str, *, event: str = "", event_id: str = "") -> None:
        """Sends one server-sent event; waits while the client is slow. `data` has no line break."""
        head = f"event: {event}\n" if event else ""
        tail = f"id: {event_id}\n" if event_id else ""
        await self._write(f"{head}data: {data}\n{tail}\n".encode())

    def keep_alive(self, message: bytes = _COMMENT) -> None:
        """From now on, a comment or another message is sent while nothing else is."""
        if self._keep_alive is None:
            self._last_write_s = asyncio.get_running_loop().time()
            self._keep_alive = asyncio.create_task(self._fill_silence(message))

    async def end_events(self) -> None:
        """Ends an event stream."""
        await self.close()
        await self._write(b"", more=False)

    async def close(self) -> None:
        """No longer fills the silence."""
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            await asyncio.gather(self._keep_alive, return_exceptions=True)
            self._keep_alive = None

    async def _write(self, data: bytes, *, more: bool = True) -> None:
        async with self._writing:
            if not self.started:
                self.started = True
                await self._send(_start_message(200, [*_EVENT_STREAM, *self.response_headers]))
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
            self._last_write_s = asyncio.get_running_loop().time()

    async def _fill_silence(self, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        while True:
            quiet_s = loop.time() - self._last_write_s
            if quiet_s >= self._keep_alive_s and not self._writing.locked():
                await self._write(message)
                quiet_s = 0.0
            await asyncio.sleep(max(0.05, self._keep_alive_s - quiet_s))


def _in_a_header(path: str) -> str:
    """A path, or its first field if the rest is no text for a header; empty if that is none too."""
    if LEGAL_NAME.fullmatch(path):
        return path
    first, separator, _ = path.partition(".")
    return first if separator and LEGAL_NAME.fullmatch(first) else ""
