"""One port, two processes: how a public listener is handed over to a successor.

On Linux two sockets may listen on one port, and the kernel deals new connections out between them
(SO_REUSEPORT). That is wanted while one process takes over from another, and a fault at any other
time: each would get half of the connections. docs/decisions/0017 has the whole hand-over.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from mlxmesh_shared.host.host_port import split_host_port

CAN_SHARE = sys.platform == "linux"
"""Whether two processes may listen on one port, each getting a part of the new connections."""


def is_free(listen: str) -> bool:
    """Whether nobody listens on host:port, by a socket that shares its port with nobody."""
    host, port = split_host_port(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections that ended a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except OSError:
            return False
    return True


def stop_listening(address: str) -> None:
    """Closes this process's listeners at host:port to new connections; those made go on.

    gRPC can stop listening only together with serving, and then drops the calls that are on their
    way to it, so this goes behind its back: a listener that is shut down accepts nothing more.
    """
    port = int(address.rpartition(":")[2])
    for listener in _listeners(port):
        # Elsewhere than on Linux a listener cannot be shut down; it goes with the server.
        with listener, contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


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
