"""Hands a public listening port over from one process to its successor.

On Linux two sockets may listen on one port, and the kernel distributes new connections among them
(SO_REUSEPORT). That is intended only during a hand-over: at any other time it is a fault, because
each process gets half of the connections. docs/decisions/0017 describes the whole hand-over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from mlxmesh_shared.host.host_port import split_host_port

_ACCEPT_TIMEOUT_S = 5.0
# The field tcpi_unacked of Linux's tcp_info, which of a listener counts such connections.
_WAITING = struct.Struct("=24xI")

CAN_SHARE = sys.platform == "linux"
"""Whether two processes may listen on one port, each getting a part of the new connections."""


def is_free(listen: str) -> bool:
    """Whether no socket listens on host:port; tests it by an exclusive bind."""
    host, port = split_host_port(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Allows connections in TIME_WAIT.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


async def stop_listening(address: str) -> None:
    """Stops this process's listeners at host:port; established connections continue.

    gRPC can stop listening only by stopping the server, which drops calls that are on their way.
    So this shuts the listening sockets down without gRPC: they accept no more connections. Those
    that wait to be accepted would be reset, so it does that while none waits.
    """
    port = int(address.rpartition(":")[2])
    for listener in list(_listeners(port)):
        # Only Linux can shut a listener down; elsewhere it closes with the server.
        with listener, contextlib.suppress(OSError):
            await until_none_waits(listener)
            listener.shutdown(socket.SHUT_RDWR)


async def until_none_waits(listener: socket.socket) -> None:
    """Waits at most 5 s for the moment when a listener may end: it then resets nobody."""
    deadline_s = time.monotonic() + _ACCEPT_TIMEOUT_S
    while _waiting(listener) and time.monotonic() < deadline_s:  # noqa: ASYNC110 - there is no event
        await asyncio.sleep(0.001)


def _waiting(listener: socket.socket) -> int:
    """How many connections the kernel has accepted and this process has not; 0 if it is closed."""
    if sys.platform != "linux" or listener.fileno() < 0:
        return 0
    info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _WAITING.size)
    return _WAITING.unpack(info)[0]


def _listeners(port: int) -> Iterator[socket.socket]:
    for descriptor in Path("/dev/fd").iterdir():
        with contextlib.suppress(OSError):
            candidate = socket.socket(fileno=os.dup(int(descriptor.name)))
            if _listens_on(candidate, port):
                yield candidate
            else:
                candidate.close()


def _listens_on(candidate: socket.socket, port: int) -> bool:
    try:
        listens = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return bool(listens) and candidate.getsockname()[1] == port
    except OSError:
        return False
