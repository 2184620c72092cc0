"""The health check of containers, run as they run it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.tls import ServerTls
from tests.fakes.certificates import issue_all, source
from tests.fakes.serving import serving


async def probe(*words: str | Path) -> tuple[int | None, str]:
    """Its exit code, and what it says."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mlxmesh_shared.probe", *words, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_a_process_that_serves_and_then_drains() -> None:
    server = MeshServer(services=[], service_names=[])
    async with serving(server) as address:
        assert await probe(address) == (1, f"{address}: not_serving\n")
        await server.set_serving()
        assert await probe(address) == (0, "")
    assert await probe(address) == (1, f"{address}: unreachable\n")


async def test_with_tls_it_shows_the_certificate_of_a_client(tmp_path: Path) -> None:
    issue_all(tmp_path)
    tls = ServerTls(source(tmp_path, "generation"))
    server = MeshServer(services=[], service_names=[], tls=tls)
    async with serving(server) as address:
        await server.set_serving()
        assert await probe(address, "--tls-dir", tmp_path) == (0, "")
        assert await probe(address) == (1, f"{address}: unreachable\n")


@pytest.mark.parametrize("words", [(), ("127.0.0.1:1", "--timeout", "soon")])
async def test_wrong_usage_ends_with_2(words: tuple[str, ...]) -> None:
    code, said = await probe(*words)
    assert code == 2
    assert "usage: python -m mlxmesh_shared.probe" in said
