"""MCP over HTTP, within limits."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2
from mcp.client.streamable_http import streamable_http_client

from mlxmesh_shared.errors import ToolServerUnavailable
from mlxmesh_tools.domain.models import Http
from mlxmesh_tools.servers.flow import Flow
from mlxmesh_tools.servers.tail import Tail

if TYPE_CHECKING:
    from mcp.client._transport import TransportStreams

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 660.0
"""Longer than the longest call: each call has a limit of its own."""
_EVENTS = "text/event-stream"


@asynccontextmanager
async def http_transport(
    config: Http, tail: Tail, *, max_message_bytes: int
) -> AsyncGenerator[TransportStreams]:
    """Speaks with a server at a URL. Redirects to other hosts are not followed; certificates are
    verified; proxies of the environment are not used.

    tail: gets why a response was not read.
    """
    limited = _LimitedTransport(tail, max_message_bytes)
    timeout = httpx2.Timeout(CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
    async with (
        httpx2.AsyncClient(
            transport=limited, headers=dict(config.headers), timeout=timeout, trust_env=False
        ) as client,
        streamable_http_client(
            config.url, http_client=client, max_sse_event_size=max_message_bytes
        ) as streams,
    ):
        yield streams


class _LimitedTransport(httpx2.AsyncBaseTransport):
    """Bounds responses: one that is JSON in its size, events in what they amount to over time."""

    def __init__(self, tail: Tail, max_message_bytes: int) -> None:
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)
        self._tail = tail
        self._max_bytes = max_message_bytes
        self._flow = Flow(time.monotonic, max_message_bytes=max_message_bytes)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            self._tail.add(f"\n{type(error).__name__}: {error}\n".encode())
            raise
        if response.status_code in (401, 403, 407, 429) or response.status_code >= 500:
            self._tail.add(f"\nit answered {_status(response.status_code)}\n".encode())
        is_events = response.headers.get("content-type", "").lower().startswith(_EVENTS)
        max_bytes = None if is_events else self._max_bytes
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _LimitedStream(response.stream, self._flow, self._tail, max_bytes)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _LimitedStream(httpx2.AsyncByteStream):
    def __init__(
        self, inner: httpx2.AsyncByteStream, flow: Flow, tail: Tail, max_bytes: int | None
    ) -> None:
        self._inner = inner
        self._flow = flow
        self._tail = tail
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._spend(chunk)
            yield chunk

    def _spend(self, chunk: bytes) -> None:
        try:
            self._flow.spend(len(chunk), max(1, chunk.count(b"\n\n")))
        except ToolServerUnavailable as error:
            self._refuse(error.message)
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                self._refuse("it sent a message that is too large")

    def _refuse(self, why: str) -> None:
        self._tail.add(f"\n{why}\n".encode())
        raise httpx2.StreamError(why)

    async def aclose(self) -> None:
        await self._inner.aclose()


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)
