"""Envelopes: how a stream of messages is carried in a body. Pure."""

from __future__ import annotations

import struct

from mlxmesh_shared.errors import InvalidArgument

COMPRESSED = 1
END_STREAM = 2
_HEAD = struct.Struct(">BI")


def envelope(message: bytes, flags: int = 0) -> bytes:
    """The message in an envelope."""
    return _HEAD.pack(flags, len(message)) + message


def only_message(body: bytes) -> tuple[bytes, bool]:
    """The one message of a request, and whether it is compressed. Raises: InvalidArgument."""
    if len(body) < _HEAD.size:
        raise InvalidArgument("the body must have one message in an envelope")
    flags, size = _HEAD.unpack_from(body)
    if flags & ~COMPRESSED or len(body) != _HEAD.size + size:
        raise InvalidArgument("the body must have exactly one message in its envelope")
    return body[_HEAD.size :], bool(flags & COMPRESSED)
