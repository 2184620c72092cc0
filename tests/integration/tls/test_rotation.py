"""New certificates are taken up by new connections, and cost no stream that runs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from grpc import aio

from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.errors import ServiceUnavailable
from mlxmesh_shared.tls.identity import ROLES
from tests.fakes.certificates import expired, issue_all, source

from .conftest import EXECUTE, WHO, Connect, Serve, call

STREAMS = 32
ROTATIONS = 5
ROUND_TRIPS = 20


async def open_stream(channel: aio.Channel) -> Any:
    stream = channel.stream_stream(EXECUTE)()
    await stream.wait_for_connection()
    return stream


async def exchange(stream: Any, message: bytes) -> bytes:
    """One message there and one back. Raises: MeshError when the stream was dropped."""
    await stream.write(message)
    return await stream.read()


async def test_rotation_drops_no_stream_and_no_message(
    serve: Serve, connect: Connect, tls_dir: Path
) -> None:
    channel = await connect(await serve("engine"), "generation", to="engine")
    streams = [await open_stream(channel) for _ in range(STREAMS)]
    certificate = tls_dir / "generation.crt"
    shown = [certificate.read_bytes()] * STREAMS
    for _ in range(ROTATIONS):
        await asyncio.to_thread(Authority(tls_dir).renew, ROLES)
        # The next stream is on a new connection; the others stay on theirs.
        streams.append(await open_stream(channel))
        shown.append(certificate.read_bytes())
        for number in range(ROUND_TRIPS):
            message = str(number).encode()
            answers = await asyncio.gather(*(exchange(stream, message) for stream in streams))
            assert answers == [message] * len(streams)

    assert [await exchange(stream, WHO) for stream in streams] == shown
    for stream in streams:
        await stream.done_writing()
        assert await stream.read() is aio.EOF
    assert len(set(shown)) == 1 + ROTATIONS


async def test_a_server_that_let_its_certificate_expire_is_back_after_a_rotation(
    serve: Serve, connect: Connect, tls_dir: Path
) -> None:
    expired(tls_dir, "generation")
    server = await serve()
    channel = await connect(server)
    with pytest.raises(ServiceUnavailable):
        await call(channel)

    Authority(tls_dir).renew(["generation"])

    await until_answered(channel)


async def test_a_caller_that_let_its_certificate_expire_is_back_after_a_rotation(
    serve: Serve, connect: Connect, tls_dir: Path
) -> None:
    expired(tls_dir, "gateway")
    channel = await connect(await serve(), "gateway")
    with pytest.raises(ServiceUnavailable):
        await call(channel)

    Authority(tls_dir).renew(["gateway"])

    assert await call(channel) == [b"answer"]


async def test_a_new_authority_is_believed_beside_the_old(
    serve: Serve, connect: Connect, tls_dir: Path, tmp_path: Path
) -> None:
    issue_all(tmp_path / "next")
    both = (tls_dir / "ca.crt").read_text() + (tmp_path / "next" / "ca.crt").read_text()
    (tls_dir / "ca.crt").write_text(both)
    server = await serve()
    for end in ("crt", "key"):
        shutil.copy(tmp_path / "next" / f"gateway.{end}", tls_dir / f"gateway.{end}")

    assert await call(await connect(server, "gateway")) == [b"answer"]
    assert await call(await connect(server, certificates=source(tls_dir, "gateway")))


async def until_answered(channel: aio.Channel) -> None:
    """A channel that could not connect pauses before it tries again."""
    async with asyncio.timeout(30):
        while True:
            try:
                assert await call(channel) == [b"answer"]
                return
            except ServiceUnavailable:
                await asyncio.sleep(0.05)
