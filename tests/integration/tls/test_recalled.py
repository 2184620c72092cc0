"""A certificate that was recalled: its calls are refused at once, and those that run end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from grpc import aio

from mlxmesh_launcher.hosts.recalling import write_recalled
from mlxmesh_shared.errors import Unauthenticated
from mlxmesh_shared.tls.recalled import fingerprint

from .conftest import EXECUTE, Connect, Serve, call


def recall(tls_dir: Path, role: str) -> None:
    write_recalled(tls_dir, [fingerprint((tls_dir / f"{role}.crt").read_bytes())])


async def is_refused(channel: aio.Channel) -> bool:
    try:
        assert await call(channel) == [b"answer"]
    except Unauthenticated as error:
        return "the certificate was recalled" in error.message
    return False


async def until_refused(channel: aio.Channel, *, refused: bool) -> None:
    async with asyncio.timeout(30):
        while await is_refused(channel) != refused:
            await asyncio.sleep(0.05)


async def test_calls_are_refused_while_the_certificate_is_listed(
    serve: Serve, connect: Connect, tls_dir: Path
) -> None:
    server = await serve()
    gateway, other = await connect(server), await connect(server, "worker")
    assert not await is_refused(gateway)
    recall(tls_dir, "gateway")
    await until_refused(gateway, refused=True)
    assert await is_refused(await connect(server))
    assert not await is_refused(other)
    write_recalled(tls_dir, [])
    await until_refused(gateway, refused=False)


async def test_running_calls_end(serve: Serve, connect: Connect, tls_dir: Path) -> None:
    server = await serve("engine")
    gone = await connect(server, "generation", to="engine")
    stream = gone.stream_stream(EXECUTE)()
    await stream.write(b"1")
    assert await stream.read() == b"1"
    write_recalled(tls_dir, ["0" * 64])
    other = await connect(server, "runtime", to="engine")

    async def others_call() -> None:
        """As the health checks of Consul do; whether it is allowed does not matter."""
        while True:
            try:
                await call(other, EXECUTE)
            except Exception:  # noqa: BLE001 - it may be refused
                await asyncio.sleep(0.05)

    calling = asyncio.create_task(others_call())
    await asyncio.sleep(1.5)
    await stream.write(b"2")
    assert await stream.read() == b"2"  # that of another certificate was recalled
    recall(tls_dir, "generation")
    async with asyncio.timeout(30):
        with pytest.raises(Unauthenticated, match="the certificate was recalled"):
            await stream.read()
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
