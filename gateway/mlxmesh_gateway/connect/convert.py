"""Bodies and queries as messages, and messages as bodies, in the codec of a request."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

from google.protobuf.message import DecodeError, Message

from mlxmesh_gateway.connect.compression import ENCODINGS, GZIP, IDENTITY, expanded
from mlxmesh_gateway.connect.json_messages import from_json, to_json
from mlxmesh_gateway.http.body import parse_json
from mlxmesh_gateway.http.exchange import Exchange
from mlxmesh_gateway.http.schema import LEGAL_NAME
from mlxmesh_shared.errors import InvalidArgument, MalformedMessage
from mlxmesh_shared.rpc.requests.parser import SMALL_BYTES, finish_in_thread

Codec = Literal["json", "proto"]
_MAX_PARAMETERS = 16


def codec_of(content_type: str) -> Codec:
    """The codec of a content type that the edge has accepted."""
    return "proto" if content_type.partition(";")[0].strip().lower().endswith("proto") else "json"


async def read_message(
    exchange: Exchange, cls: type[Message], encoded: bytes, codec: Codec
) -> Message:
    """The message of a body; unknown fields are told or refused. Raises: InvalidArgument."""
    if codec == "proto":
        return _from_proto(cls, encoded)
    value = await parse_json(encoded or b"{}", {})
    if len(encoded) <= SMALL_BYTES:
        message, unknown = from_json(cls, value)
    else:
        message, unknown = await finish_in_thread(from_json, cls, value)
    named = [path for path in unknown if LEGAL_NAME.fullmatch(_plain(path))]
    if unknown and exchange.refuse_unknown:
        field = named[0] if named else ""
        raise InvalidArgument(f"there is no field {field}".rstrip(), field=field)
    exchange.tell_ignored([_plain(path) for path in named])
    return message


async def expand(exchange: Exchange, compressed: bytes) -> bytes:
    """A compressed body or message. Raises: InvalidArgument, MessageTooLarge, TooManyRequests."""
    found = await expanded(compressed, exchange.calls.max_body_bytes)
    exchange.count(len(found))
    return found


async def write_message(message: Message, codec: Codec) -> bytes:
    """The message as a body; a large one is converted on a thread."""
    if codec == "proto":
        return message.SerializeToString()
    if message.ByteSize() <= SMALL_BYTES:
        return to_json(message).encode()
    return (await asyncio.to_thread(to_json, message)).encode()


class Queried(NamedTuple):
    """The message of a GET."""

    encoded: bytes
    codec: Codec
    compressed: bool


def message_in_query(query: bytes) -> Queried:
    """The message of a GET, an empty one without one. Raises: InvalidArgument."""
    parameters = _parameters(query)
    codec = parameters.get("encoding", "json")
    if codec not in ("json", "proto"):
        raise InvalidArgument("the encoding must be json or proto", field="encoding")
    compression = parameters.get("compression", IDENTITY) or IDENTITY
    if compression not in ENCODINGS:
        names = " or ".join(ENCODINGS)
        raise InvalidArgument(f"the compression must be {names}", field="compression")
    text = parameters.get("message", "")
    encoded = _from_base64(text) if parameters.get("base64", "0") == "1" else text.encode()
    return Queried(encoded, "proto" if codec == "proto" else "json", compression == GZIP)


def _parameters(query: bytes) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MAX_PARAMETERS,
        )
    except ValueError:
        raise InvalidArgument(
            "the query cannot be read: it must be UTF-8, percent-encoded"
        ) from None
    return dict(reversed(pairs))


def _from_base64(text: str) -> bytes:
    try:
        # The URL-safe alphabet, whose padding may be left out.
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), b"-_", True)
    except (binascii.Error, ValueError):
        raise InvalidArgument("the message is not valid base64 of the URL-safe alphabet") from None


def _from_proto(cls: type[Message], encoded: bytes) -> Message:
    try:
        return cls.FromString(encoded)
    except (DecodeError, ValueError):
        raise MalformedMessage("the message is not valid protobuf") from None


def _plain(path: str) -> str:
    """A path without brackets, which a header may not have: items[3].x is items.3.x"""
    return path.replace("[", ".").replace("]", "")


def body_of(raw: Mapping[str, Any]) -> bytes:
    """The bytes that `keep_bytes` has kept."""
    return raw["bytes"]


async def keep_bytes(body: bytes, _headers: Mapping[str, str]) -> dict[str, Any]:
    """A body as it came, for handlers that read it in the codec of their request."""
    return {"bytes": body}
