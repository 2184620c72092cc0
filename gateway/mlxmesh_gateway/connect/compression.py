"""Compressed requests, which clients of the protocol send unless they are told not to."""

from __future__ import annotations

import asyncio
import zlib

from mlxmesh_shared.errors import InvalidArgument, MessageTooLarge
from mlxmesh_shared.rpc.requests.parser import SMALL_BYTES

IDENTITY, GZIP = "identity", "gzip"
ENCODINGS = (IDENTITY, GZIP)
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


async def expanded(compressed: bytes, max_bytes: int) -> bytes:
    """What was compressed by gzip; nothing is expanded beyond max_bytes.

    Raises: MessageTooLarge, InvalidArgument.
    """
    start = _Expansion(compressed)
    found = start.next(SMALL_BYTES)
    if not start.ended:
        found += await asyncio.to_thread(start.next, max_bytes - len(found) + 1)
    if len(found) > max_bytes:
        raise MessageTooLarge(f"the message is too large; at most {max_bytes} bytes are accepted")
    if not start.ended:
        raise InvalidArgument("the gzip data ends too early")
    return found


class _Expansion:
    def __init__(self, compressed: bytes) -> None:
        self._expander = zlib.decompressobj(_GZIP_WINDOW)
        self._left = compressed

    @property
    def ended(self) -> bool:
        return self._expander.eof

    def next(self, max_bytes: int) -> bytes:
        """At most so many of the next bytes; fewer only at the end of the data."""
        try:
            found = self._expander.decompress(self._left, max_bytes)
        except zlib.error:
            raise InvalidArgument("the message is not valid gzip data") from None
        self._left = self._expander.unconsumed_tail
        if self._expander.unused_data:
            raise InvalidArgument("there is more after the end of the gzip data")
        return found
