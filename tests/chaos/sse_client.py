"""A plain HTTP/1.1 client of event streams: it never retries, and says how a stream ended."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    data: str
    event: str = ""
    event_id: str = ""


class StreamFailed(Exception):
    """The response is no event stream: its status and its body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


async def events(
    address: str,
    verb: str,
    path: str,
    *,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Event]:
    """The events of a response, to the end that its last chunk marks.

    Raises: StreamFailed; OSError when the connection is lost before that end.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**20, ssl=tls)
    try:
        writer.write(_request(address, verb, path, body, headers or {}))
        status, chunked = await _head(reader)
        if status != 200:
            raise StreamFailed(status, (await reader.read(2**16)).decode(errors="replace"))
        if not chunked:
            raise StreamFailed(status, "not chunked")
        async for event in _events(_chunks(reader)):
            yield event
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the connection was lost in mid-stream") from error
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _request(
    address: str,
    verb: str,
    path: str,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
) -> bytes:
    data = json.dumps(body).encode() if body is not None else b""
    own = {
        "host": address,
        "content-type": "application/json",
        "content-length": str(len(data)),
        **headers,
    }
    lines = [f"{verb} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in own.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


async def _head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status, and whether the body comes in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    return int(head.split(" ", 2)[1]), "transfer-encoding: chunked" in head


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        yield (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n\n")
        for block in whole:
            fields = dict(_fields(block.decode()))
            if "data" in fields:
                yield Event(fields["data"], fields.get("event", ""), fields.get("id", ""))


def _fields(block: str) -> list[tuple[str, str]]:
    """The fields of one event; comments are none."""
    lines = [line.partition(":") for line in block.split("\n")]
    return [(name, value.removeprefix(" ")) for name, _, value in lines if name]
