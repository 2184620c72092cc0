"""A server outlives connections that come all at once, also while its certificates change."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.process.startup import child_environment
from mlxmesh_shared.tls.identity import server_name
from tests.fakes.certificates import client_context

AT_ONCE, EACH = 64, 30
ROTATE_EVERY_S = 0.2


async def test_many_handshakes_at_once_do_not_end_a_server(tls_dir: Path) -> None:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.fakes.tls_server", str(tls_dir)),
        stdin=PIPE,
        stdout=PIPE,
        env=child_environment(),
    )
    assert server.stdin is not None
    assert server.stdout is not None
    address = (await server.stdout.readline()).decode().strip()
    # Of its own, for it is not renewed while it is read.
    client = client_tls(tls_dir)
    rotating = asyncio.create_task(rotate(tls_dir))
    connected = await asyncio.gather(*(connect(address, client) for _ in range(AT_ONCE)))
    rotating.cancel()
    assert sum(connected) > AT_ONCE * EACH / 2
    server.stdin.close()
    assert await server.wait() == 0


def client_tls(tls_dir: Path) -> ssl.SSLContext:
    """A generation instance's, as it is now."""
    context = client_context(tls_dir, "generation")
    context.set_alpn_protocols(["h2"])
    return context


async def connect(address: str, client: ssl.SSLContext) -> int:
    """One connection after the other; how many were not reset, as those are whose handshake takes
    long on a busy host. Raises: OSError for one that is refused.
    """
    host, _, port = address.rpartition(":")
    connected = 0
    for _ in range(EACH):
        with contextlib.suppress(ConnectionResetError):
            _, writer = await asyncio.open_connection(
                host, int(port), ssl=client, server_hostname=server_name("engine")
            )
            writer.close()
            connected += 1
    return connected


async def rotate(tls_dir: Path) -> None:
    """New certificates for the server, again and again."""
    while True:
        await asyncio.sleep(ROTATE_EVERY_S)
        await asyncio.to_thread(Authority(tls_dir).issue, "engine")
