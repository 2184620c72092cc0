"""The HTTP port's listening socket, with a limit of connections, whatever their clients do."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections import deque
from typing import Any

MAX_OPEN = 512
"""Connections, including those in their TLS handshake."""
HANDSHAKE_S = 5.0
"""After this time a connection must be known to the server."""
_EXHAUSTED = (errno.EMFILE, errno.ENFILE)


class BoundedListener(socket.socket):
    """Accepts like any socket, but closes a connection beyond the limit."""

    def __init__(self, bound: socket.socket, *, max_open: int = MAX_OPEN) -> None:
        """Takes ownership of the socket."""
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._max_open = max_open
        self._accepted: deque[tuple[float, socket.socket, Any]] = deque()
        self._known: set[Any] = set()
        # Closed for a moment when the process has no descriptor left to accept with.
        self._spare: int | None = None
        self._open_spare()

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises: BlockingIOError when nobody waits, or the one who did is turned away; OSError
        when nobody can be: the event loop tries again after a second.
        """
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED or self._spare is None:
                self._open_spare()
                raise
            self._turn_away(self._spare)
            raise BlockingIOError from None
        self._open_spare()
        self._end_unknown()
        if len(self._accepted) >= self._max_open:
            connection.close()
            raise BlockingIOError
        # asyncio sets it only on sockets with the protocol number of TCP, and these inherit 0.
        # Without it a body waits 40 ms for the acknowledgement of its headers.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted.append((time.monotonic(), connection, address))
        return connection, address

    def know(self, address: Any) -> None:
        """The server knows this peer's connection and will close it in time."""
        self._known.add(address)

    def forget(self, address: Any) -> None:
        """The connection has ended."""
        self._known.discard(address)

    def close(self) -> None:
        """Accepted connections stay open."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        super().close()

    def _end_unknown(self) -> None:
        """Forgets closed connections, and closes those that never became HTTP."""
        late_s = time.monotonic() - HANDSHAKE_S
        open_ = ((since, one, who) for since, one, who in self._accepted if one.fileno() >= 0)
        kept: deque[tuple[float, socket.socket, Any]] = deque()
        for since_s, connection, address in open_:
            if since_s <= late_s and address not in self._known:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            kept.append((since_s, connection, address))
        self._accepted = kept

    def _turn_away(self, spare: int) -> None:
        os.close(spare)
        self._spare = None
        with contextlib.suppress(OSError):
            connection, _ = super().accept()
            connection.close()
        self._open_spare()

    def _open_spare(self) -> None:
        """Another process may have been quicker: then at the next connection."""
        if self._spare is None:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)
