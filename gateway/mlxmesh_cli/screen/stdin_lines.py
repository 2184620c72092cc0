"""Lines of standard input, in an event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator

from mlxmesh_shared.errors import InvalidArgument

MAX_LINE_BYTES = 16 << 20


async def stdin_lines() -> AsyncGenerator[str]:
    """Each line as it comes. Raises: InvalidArgument for one above MAX_LINE_BYTES."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    except (ValueError, PermissionError):
        # A file: reading it never waits for anybody.
        for line in sys.stdin.buffer:
            yield line.decode(errors="replace")
        return
    while line := await _read_line(reader):
        yield line.decode(errors="replace")


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readline()
    except ValueError:
        raise InvalidArgument(
            f"a line of standard input has more than {MAX_LINE_BYTES >> 20} MiB; split it"
        ) from None
