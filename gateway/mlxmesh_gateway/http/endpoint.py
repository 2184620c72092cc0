"""An HTTP route of an edge: lets each request in, runs its handler, and reports its errors."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from mlxmesh_gateway.door.evidence import credential_in
from mlxmesh_gateway.http.body import (
    ParseBody,
    StreamedBody,
    discard_rest,
    parse_json,
    read_body,
)
from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.http.exchange import KEEP_ALIVE_S, Exchange, UnknownFields, send_json
from mlxmesh_gateway.http.schema import Schema
from mlxmesh_gateway.http.served import ServedRequest, ServedRequests
from mlxmesh_gateway.http.statuses import ErrorShape, error_headers
from mlxmesh_shared.errors import Cancelled, DeadlineExceeded, Internal, MeshError, MessageTooLarge
from mlxmesh_shared.rpc.access_log import first_error, redacted_trace
from mlxmesh_shared.rpc.caller import legal_name
from mlxmesh_shared.tls.identity import NOBODY

_log = logging.getLogger(__name__)

Handle = Callable[[Exchange], Awaitable[None]]
"""Reads the exchange's request and writes its response. Raises MeshError before it has started the
response; afterwards it writes errors in its protocol's way, and raises nothing."""
CERTIFICATE = "mlxmesh_certificate"
"""The key of an ASGI scope that holds the PeerIdentity of a client's certificate."""
BODY_TIMEOUT_S = 30.0
"""How long a client may take to send its request."""


class Endpoint:
    """An ASGI application for one route."""

    def __init__(
        self,
        door: HttpDoor,
        method: str,
        handle: Handle,
        errors: ErrorShape,
        *,
        route: str,
        unknown_fields: UnknownFields,
        served: ServedRequests,
        keep_alive_s: float = KEEP_ALIVE_S,
        has_body: bool = True,
        parse: ParseBody = parse_json,
        summary: str = "",
        request: type[Schema] | None = None,
        streams_body: bool = False,
        protocol: str = "grpc",
    ) -> None:
        """method: of the contracts, which decides who may make such requests.

        route: the pattern of the path, for telemetry.
        summary, request: what the route does and the schema of its body, for the OpenAPI document.
        streams_body: whether the handler reads the body as it arrives, a form of any size.
        protocol: as of PublicCall.
        """
        self._door = door
        self._protocol = protocol
        self._method = method
        self._handle = handle
        self._errors = errors
        self._route = route
        self._unknown_fields = unknown_fields
        self._served = served
        self._keep_alive_s = keep_alive_s
        self._has_body = has_body
        self._parse = parse
        self.summary = summary
        self.request = request
        self.streams_body = streams_body

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        started_s = time.perf_counter()
        headers = headers_of(scope)
        request = self._served.begin(scope, self._route, headers)
        response = _Response(send, self._errors.request_id_header, request.id)
        status = 499
        try:
            try:
                await self._serve(scope, headers, receive, response, request)
            except asyncio.CancelledError:
                raise
            except Exception as raised:  # noqa: BLE001 - each becomes a response
                error = self._known(raised)
                if isinstance(error, MessageTooLarge) and not self.streams_body:
                    await discard_rest(receive)
                await self._report(error, response)
            status = response.status or status
        finally:
            request.end(status, time.perf_counter() - started_s)

    async def _serve(
        self,
        scope: Mapping[str, Any],
        headers: Mapping[str, str],
        receive: Any,
        send: _Response,
        request: ServedRequest,
    ) -> None:
        async with self._door.admitted(
            self._method,
            headers,
            credential=credential_of(scope),
            certificate=scope.get(CERTIFICATE, NOBODY),
            host=host_of(scope),
            protocol=self._protocol,
        ) as calls:
            request.principal = calls.principal.id if calls.principal.known else ""
            with self._door.counting(calls.principal) as count:
                body: Mapping[str, Any] = {}
                parts = StreamedBody(receive, headers) if self.streams_body else None
                if parts is None:
                    raw = await self._body(receive, headers, count)
                    body = await self._parse(raw, headers) if self._has_body else {}
                exchange = Exchange(
                    calls=calls,
                    scope=scope,
                    headers=headers,
                    body=body,
                    send=send,
                    unknown_fields=self._unknown_fields,
                    keep_alive_s=self._keep_alive_s,
                    request_id=send.request_id,
                    parts=parts,
                    count=count,
                )
                try:
                    if parts is None:
                        await _until_gone(receive, self._handle(exchange))
                    else:
                        await self._handle_stream(exchange, parts, receive)
                finally:
                    await exchange.close()

    async def _handle_stream(self, exchange: Exchange, parts: StreamedBody, receive: Any) -> None:
        """The handler sees for itself, while it reads, that the client is gone."""
        try:
            await self._handle(exchange)
        except MeshError:
            if not parts.ended:
                await discard_rest(receive)
            raise

    async def _body(
        self, receive: Any, headers: Mapping[str, str], count: Callable[[int], None]
    ) -> bytes:
        max_bytes = self._door.max_body_bytes if self._has_body else 0
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                return await read_body(receive, headers, max_bytes=max_bytes, count=count)
        except TimeoutError:
            raise DeadlineExceeded("the request did not arrive in time") from None

    async def _report(self, error: MeshError, response: _Response) -> None:
        """Sends the error, unless the client is gone or a part of a response was sent."""
        if response.status or isinstance(error, Cancelled):
            return
        status = self._errors.status(error)
        headers = error_headers(error)
        if isinstance(error, MessageTooLarge):
            headers.append(("connection", "close"))  # the rest of the body is still on its way
        body = self._errors.body(error, status, response.request_id)
        kind = self._errors.content_type
        await send_json(response, status, body, headers, content_type=kind)

    def _known(self, raised: Exception) -> MeshError:
        error = first_error(raised)
        if isinstance(error, MeshError):
            return error
        short_id = secrets.token_hex(4)
        _log.error("%s failed, id %s\n%s", self._method, short_id, redacted_trace(error))
        return Internal(f"internal error; see the log of the gateway, id {short_id}")


class _Response:
    """ASGI's send, and the status that was sent."""

    def __init__(self, send: Any, request_id_header: str, request_id: str) -> None:
        self.status = 0
        self.request_id = request_id
        self._send = send
        named = (request_id_header.encode("latin-1"), request_id.encode("latin-1"))
        self._headers = [named] if request_id_header else []

    async def __call__(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message = {**message, "headers": [*message["headers"], *self._headers]}
        await self._send(message)


async def _until_gone(receive: Any, work: Awaitable[None]) -> None:
    """Does the work, and cancels it when the client disconnects. Raises: Cancelled then."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Cancelled("the client is gone")
        await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def headers_of(scope: Mapping[str, Any]) -> Mapping[str, str]:
    """By lower-case names; of a name that is repeated, the first value."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    return headers


def credential_of(scope: Mapping[str, Any]) -> str:
    """The client's API key or access token. Raises: InvalidArgument if its header is repeated."""
    return credential_in((n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"])


def host_of(scope: Mapping[str, Any]) -> str:
    """The client's host, as a caller's name."""
    client = scope.get("client")
    return legal_name(client[0] if client else "")
