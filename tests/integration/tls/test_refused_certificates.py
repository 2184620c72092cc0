"""Who does not get a connection at all, and whom a caller does not believe."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from grpc import aio

from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.errors import ServiceUnavailable, Unauthenticated
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer
from mlxmesh_shared.tls import CertificateFiles, CertificateSource
from mlxmesh_shared.tls.identity import SERVER_ROLES
from tests.fakes.certificates import expired, issue_all, source, without_role

from .conftest import GENERATE, Connect, Serve, call


async def assert_refused(
    server: MeshServer, connect: Connect, certificates: CertificateSource
) -> None:
    """No connection for these; for a good certificate there is one, so it was not the server."""
    channel = await connect(server, certificates=certificates)
    with pytest.raises(ServiceUnavailable):
        await call(channel)
    assert await call(await connect(server, "gateway")) == [b"answer"]


async def test_an_expired_certificate_is_refused(
    serve: Serve, connect: Connect, tls_dir: Path
) -> None:
    # Its clock stands still, so that it never reads the renewed files.
    late = CertificateSource(expired(tls_dir, "gateway"), clock=lambda: 0.0)
    Authority(tls_dir).renew(["gateway"])

    await assert_refused(await serve(), connect, late)


async def test_a_certificate_of_another_authority_is_refused(
    serve: Serve, connect: Connect, tls_dir: Path, tmp_path: Path
) -> None:
    issue_all(tmp_path / "foreign")
    # It believes the server; the server does not believe it.
    foreign = CertificateFiles(
        tls_dir / "ca.crt",
        tmp_path / "foreign" / "gateway.crt",
        tmp_path / "foreign" / "gateway.key",
    )

    with pytest.raises(ServiceUnavailable):
        await call(await connect(await serve(), certificates=CertificateSource(foreign)))


async def test_no_certificate_is_refused(serve: Serve, connect: Connect, tls_dir: Path) -> None:
    nobody = CertificateSource(CertificateFiles(tls_dir / "ca.crt"))

    await assert_refused(await serve(), connect, nobody)


async def test_a_caller_in_the_clear_is_refused(serve: Serve, connect: Connect) -> None:
    server = await serve()
    async with open_channel(server.address) as channel:
        with pytest.raises(ServiceUnavailable):
            await call(channel)
    assert await call(await connect(server)) == [b"answer"]


@pytest.mark.parametrize(
    "uri", ["", "spiffe://mlxmesh/janitor", "spiffe://elsewhere/gateway", "https://mlxmesh/gateway"]
)
async def test_a_certificate_without_a_role_of_this_mesh_is_nobody(
    serve: Serve, connect: Connect, tls_dir: Path, uri: str
) -> None:
    files = without_role(tls_dir, uri)

    with pytest.raises(Unauthenticated):
        await call(await connect(await serve(), certificates=CertificateSource(files)))


@pytest.mark.parametrize("role", ["client", "admin", "engine", "gateway"])
async def test_a_server_of_another_role_is_not_believed(
    serve: Serve, connect: Connect, role: str
) -> None:
    server = await serve(role)

    with pytest.raises(ServiceUnavailable):
        await call(await connect(server, to="generation"))
    if role in SERVER_ROLES:
        assert await call(await connect(server, to=role)) == [b"answer"]


async def test_a_server_of_another_authority_is_not_believed(
    serve: Serve, connect: Connect, tmp_path: Path
) -> None:
    issue_all(tmp_path / "foreign")
    server = await serve(certificates=source(tmp_path / "foreign", "generation"))

    with pytest.raises(ServiceUnavailable):
        await call(await connect(server))


async def test_any_client_can_check_the_servers_host_instead(serve: Serve, tls_dir: Path) -> None:
    """As grpcurl and clients in other languages do: no name but the address."""
    server = await serve()
    files = CertificateFiles.of_role(tls_dir, "gateway")
    assert files.key is not None
    assert files.certificate is not None
    credentials = grpc.ssl_channel_credentials(
        files.ca.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    for host in ("127.0.0.1", "localhost"):
        address = server.address.replace("127.0.0.1", host)
        async with aio.secure_channel(address, credentials) as channel:
            assert [message async for message in channel.unary_stream(GENERATE)(b"")] == [b"answer"]
