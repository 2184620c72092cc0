"""The gateway's HTTP port: nothing before its first client, TLS where the mesh has it."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest

from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_gateway.http.tls import server_context
from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.shared_port import CAN_SHARE
from mlxmesh_shared.tls import CertificateFiles
from tests.fakes.certificates import issue_all


@asynccontextmanager
async def served(
    listen: str = "127.0.0.1:0", *, take_over: bool = False, tls_dir: Path | None = None
) -> AsyncGenerator[str]:
    tls = None
    if tls_dir is not None:
        files = CertificateFiles.of_role(tls_dir, "gateway")
        tls = partial(server_context, files, client_certificates=True)
    with HttpPort(listen, take_over=take_over) as port:
        async with port.serving(partial(create_app, None), tls):
            yield port.address


async def health(url: str, verify: ssl.SSLContext | bool = True) -> str:
    async with httpx2.AsyncClient(verify=verify) as client:
        return (await client.get(f"{url}/healthz")).text


def test_a_gateway_that_nobody_asks_imports_no_http_server() -> None:
    code = (
        "import sys, mlxmesh_gateway.__main__\n"
        "heavy = {'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr


async def test_many_first_clients_at_once_are_answered() -> None:
    async with served() as address:
        answers = await asyncio.gather(*(health(f"http://{address}") for _ in range(8)))
    assert answers == ["ok\n"] * 8


async def test_it_ends_whether_or_not_anybody_came() -> None:
    async with asyncio.timeout(20):
        async with served():
            pass
        async with served() as address:
            await health(f"http://{address}")
    with pytest.raises(httpx2.ConnectError):
        await health(f"http://{address}")


async def test_a_taken_port_is_refused_and_taken_over_when_asked() -> None:
    async with served() as address:
        with pytest.raises(IllegalState, match="http_listen"):
            HttpPort(address)
        if CAN_SHARE:
            async with served(address, take_over=True) as same:
                assert same == address
    async with served(address) as again:
        assert await health(f"http://{again}") == "ok\n"


def client_context(tls_dir: Path, role: str = "") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls_dir / "ca.crt")
    if role:
        context.load_cert_chain(tls_dir / f"{role}.crt", tls_dir / f"{role}.key")
    return context


async def test_with_tls_a_certificate_is_needed(tmp_path: Path) -> None:
    issue_all(tmp_path)
    async with served(tls_dir=tmp_path) as address:
        assert await health(f"https://{address}", client_context(tmp_path, "client")) == "ok\n"
        with pytest.raises(httpx2.TransportError):
            await health(f"https://{address}", client_context(tmp_path))
        with pytest.raises(httpx2.TransportError):
            await health(f"http://{address}")


async def test_a_renewed_certificate_is_shown_to_the_next_client(tmp_path: Path) -> None:
    issue_all(tmp_path)
    async with served(tls_dir=tmp_path) as address:
        before = await shown(address, client_context(tmp_path, "client"))
        Authority(tmp_path).issue("gateway")
        assert await shown(address, client_context(tmp_path, "client")) != before
        (tmp_path / "gateway.crt").write_text("half of a rotation")
        assert await health(f"https://{address}", client_context(tmp_path, "client")) == "ok\n"


async def shown(address: str, context: ssl.SSLContext) -> bytes:
    """The certificate that a new connection is shown."""
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    connection: ssl.SSLObject = writer.get_extra_info("ssl_object")
    certificate = connection.getpeercert(binary_form=True)
    writer.close()
    assert certificate is not None
    return certificate
