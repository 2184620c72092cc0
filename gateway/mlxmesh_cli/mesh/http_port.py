"""The HTTP port of the gateway on this host."""

from __future__ import annotations

import socket
from contextlib import suppress

from mlxmesh_cli.mesh.console_address import ANY_HOST

TIMEOUT_S = 60.0


def load_http(http: str, timeout_s: float = TIMEOUT_S) -> None:
    """Makes a gateway load what serves HTTP, which it otherwise does with its first connection.

    After an upgrade it would find the modules of the newer version, and could not serve HTTP until
    it is replaced. A port with TLS answers a request in plain text too, with an alert.
    """
    host, _, port = http.rpartition(":")
    reached = "127.0.0.1" if host in ANY_HOST else host.strip("[]")
    with suppress(OSError), socket.create_connection((reached, int(port)), timeout_s) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        connection.recv(1)
