"""Handlers: read the message, call, write the answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from google.protobuf.message import Message

from mlxmesh_gateway.connect.convert import (
    Codec,
    body_of,
    codec_of,
    expand,
    message_in_query,
    read_message,
    write_message,
)
from mlxmesh_gateway.connect.envelopes import envelope, only_message
from mlxmesh_gateway.connect.errors import end_of_stream, error_object
from mlxmesh_gateway.connect.event_ids import LAST_EVENT_ID, event_id, go_on
from mlxmesh_gateway.connect.methods import ConnectMethod
from mlxmesh_gateway.connect.protocol import COMPRESSED
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_shared.errors import InvalidArgument, MeshError

Handle = Callable[[Exchange], Awaitable[None]]


def unary(method: ConnectMethod) -> Handle:
    """Answers with the one response."""

    async def handle(exchange: Exchange) -> None:
        request, codec = await _request(method, exchange)
        response = await exchange.calls.unary(method.path, request, method.response_class)
        body = await write_message(response, codec)
        await exchange.respond(200, body, content_type=f"application/{codec}")

    return handle


def stream(method: ConnectMethod) -> Handle:
    """Answers with an envelope for each message, and one for the end."""

    async def handle(exchange: Exchange) -> None:
        content_type = exchange.headers["content-type"]
        codec = codec_of(content_type)
        encoded, compressed = only_message(body_of(exchange.body))
        if compressed:
            if not exchange.scope[COMPRESSED]:
                raise InvalidArgument("the headers name no compression of messages")
            encoded = await expand(exchange, encoded)
        request = await read_message(exchange, method.request_class, encoded, codec)
        await exchange.begin_stream(content_type=f"application/connect+{codec}")

        async def write(encoded: bytes) -> None:
            if codec == "json":
                encoded = await write_message(method.response_class.FromString(encoded), codec)
            await exchange.write_stream(envelope(encoded))

        error: MeshError | None = None
        try:
            await exchange.calls.stream(method.path, request, write)
        except MeshError as raised:
            error = raised
        await exchange.write_stream(end_of_stream(error))
        await exchange.end_stream()

    return handle


def events(method: ConnectMethod) -> Handle:
    """Answers with a server-sent event for each message, and one named end or error."""

    async def handle(exchange: Exchange) -> None:
        request, _ = await _request(method, exchange)
        go_on(request, exchange.headers.get(LAST_EVENT_ID, ""))
        exchange.keep_alive()

        async def write(encoded: bytes) -> None:
            message = method.response_class.FromString(encoded)
            body = await write_message(message, "json")
            await exchange.event(body.decode(), event_id=event_id(message))

        try:
            await exchange.calls.stream(method.path, request, write)
        except MeshError as error:
            if not exchange.started:
                raise
            content = json.dumps(error_object(error), ensure_ascii=False)
            await exchange.event(content, event="error")
        else:
            await exchange.event("{}", event="end")
        await exchange.end_events()

    return handle


async def _request(method: ConnectMethod, exchange: Exchange) -> tuple[Message, Codec]:
    if "bytes" in exchange.body:
        codec = codec_of(exchange.headers["content-type"])
        encoded, compressed = body_of(exchange.body), exchange.scope[COMPRESSED]
    else:
        encoded, codec, compressed = message_in_query(exchange.query)
    if encoded and compressed:
        encoded = await expand(exchange, encoded)
    return await read_message(exchange, method.request_class, encoded, codec), codec
