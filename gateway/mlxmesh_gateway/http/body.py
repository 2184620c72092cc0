"""The JSON body of a request, read within limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NoReturn, cast

from mlxmesh_shared.errors import Cancelled, DeadlineExceeded, InvalidArgument, MessageTooLarge
from mlxmesh_shared.rpc.requests.parser import SMALL_BYTES, finish_in_thread

MAX_DEPTH = 100
"""Of objects and arrays within each other."""

DISCARD_S = 2.0
SILENCE_S = 30.0
"""How long a client may take to send the next part of a body that is read as it arrives."""

JsonObject = dict[str, Any]
ParseBody = Callable[[bytes, Mapping[str, str]], Awaitable[JsonObject]]
"""Makes an object of a body and the request's headers. Raises: InvalidArgument."""


async def read_body(
    receive: Any, headers: Mapping[str, str], *, max_bytes: int, count: Callable[[int], None]
) -> bytes:
    """The whole body.

    count: called with the size so far after each part; may raise TooManyRequests.
    Raises: MessageTooLarge, InvalidArgument, Cancelled when the client is gone.
    """
    _check_encoding(headers)
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    body = bytearray()
    async for part in _parts(receive):
        size_bytes = len(body) + len(part)
        if size_bytes > max_bytes:
            raise _too_large(max_bytes)
        count(size_bytes)
        body += part
    return bytes(body)


class StreamedBody:
    """A body of any size, as it arrives; an asynchronous iterator of its parts."""

    def __init__(self, receive: Any, headers: Mapping[str, str]) -> None:
        """Raises: InvalidArgument."""
        _check_encoding(headers)
        self.ended = False
        """Whether all of it was read."""
        self._receive = receive

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Raises: DeadlineExceeded when nothing arrives for a while, Cancelled when the client is
        gone.
        """
        if self.ended:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(SILENCE_S):
                message = await self._receive()
        except TimeoutError:
            raise DeadlineExceeded("the request did not arrive in time") from None
        if message["type"] == "http.disconnect":
            raise Cancelled("the client is gone")
        self.ended = not message.get("more_body", False)
        return message.get("body", b"")


async def discard_rest(receive: Any) -> None:
    """Reads what is left of a body, for a moment: a client that is still sending when its
    connection is closed may never see the response.
    """
    with contextlib.suppress(TimeoutError, Cancelled):
        async with asyncio.timeout(DISCARD_S):
            async for _ in _parts(receive):
                pass


async def parse_json(body: bytes, headers: Mapping[str, str]) -> JsonObject:
    """The object in a body; a large one is parsed on a thread. Raises: InvalidArgument."""
    kind = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise InvalidArgument(
            "the body must be JSON, with the header content-type: application/json",
            field="content-type",
        )
    if len(body) <= SMALL_BYTES:
        return _parsed(body)
    return await finish_in_thread(_parsed, body)


def _parsed(body: bytes) -> JsonObject:
    try:
        value = json.loads(body.decode(), parse_constant=_refuse_constant)
        if b"\\u" in body:
            # Half of a surrogate pair has no encoding, and no place in a protobuf text.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        # The text of the error may quote the body.
        raise InvalidArgument("the body is not valid JSON in UTF-8") from None
    if not isinstance(value, dict):
        raise InvalidArgument("the body must be a JSON object")
    whole: JsonObject = cast("Any", value)
    _check_depth(whole)
    return whole


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return
    raise InvalidArgument(f"the body is nested more than {MAX_DEPTH} deep")


def _inner(value: object) -> list[object]:
    if isinstance(value, dict):
        return [
            one for one in cast("dict[str, object]", value).values() if isinstance(one, dict | list)
        ]
    if isinstance(value, list):
        return [one for one in cast("list[object]", value) if isinstance(one, dict | list)]
    return []


def _refuse_constant(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


async def _parts(receive: Any) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client is gone")
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


def _check_encoding(headers: Mapping[str, str]) -> None:
    if headers.get("content-encoding", "identity") != "identity":
        raise InvalidArgument("compressed bodies are not accepted", field="content-encoding")


def _too_large(max_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(f"the body is too large; at most {max_bytes} bytes are accepted")
