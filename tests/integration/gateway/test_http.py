"""The gateway's HTTP port: nothing before its first client, TLS where the mesh has it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlxmesh_gateway.http.app import create_app
from mlxmesh_gateway.http.endpoint import CERTIFICATE
from mlxmesh_gateway.http.exchange import send_json
from mlxmesh_gateway.http.hosts import AnsweredHosts
from mlxmesh_gateway.http.listener import BoundedListener
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_gateway.http.tls import server_context
from mlxmesh_gateway.http_app import metrics_page
from mlxmesh_gateway.otlp.sinks.prometheus import PrometheusSink
from mlxmesh_launcher.authority import Authority
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.rpc.shared_port import CAN_SHARE
from mlxmesh_shared.tls import CertificateFiles
from mlxmesh_shared.tls.identity import spiffe_id
from tests.fakes.certificates import client_context, issue_all


@asynccontextmanager
async def served(
    listen: str = "127.0.0.1:0",
    *,
    take_over: bool = False,
    tls_dir: Path | None = None,
    mode: ssl.VerifyMode = ssl.CERT_REQUIRED,
) -> AsyncGenerator[str]:
    tls = None
    if tls_dir is not None:
        files = CertificateFiles.of_role(tls_dir, "gateway")
        tls = partial(server_context, files, client_certificates=lambda: mode)
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


@pytest.mark.skipif(not CAN_SHARE, reason="only Linux tells who waits to be accepted")
@pytest.mark.parametrize("is_first", [True, False])
async def test_who_connects_just_before_the_port_is_left_is_answered(is_first: bool) -> None:
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(partial(create_app, None)):
            if not is_first:
                await health(f"http://{port.address}")
            host, _, number = port.address.rpartition(":")
            with socket.create_connection((host, int(number)), timeout=30) as client:
                await port.leave()
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((host, int(number)))
                await asyncio.sleep(0.3)  # the server has begun to end its connections
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                answer = await asyncio.to_thread(client.makefile("rb").read)
            assert answer.startswith(b"HTTP/1.1 200 OK")


async def test_who_connects_and_asks_nothing_does_not_delay_the_end() -> None:
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(partial(create_app, None)):
            await health(f"http://{port.address}")
            host, _, number = port.address.rpartition(":")
            client = socket.create_connection((host, int(number)), timeout=30)
            await port.leave()
        with client, contextlib.suppress(ConnectionResetError):
            assert client.recv(1) == b""


async def test_a_taken_port_is_refused_and_taken_over_when_asked() -> None:
    async with served() as address:
        with pytest.raises(IllegalState, match="http_listen"):
            HttpPort(address)
        if CAN_SHARE:
            async with served(address, take_over=True) as same:
                assert same == address
    async with served(address) as again:
        assert await health(f"http://{again}") == "ok\n"


async def test_with_tls_a_certificate_is_needed(tmp_path: Path) -> None:
    issue_all(tmp_path)
    async with served(tls_dir=tmp_path) as address:
        assert await health(f"https://{address}", client_context(tmp_path, "client")) == "ok\n"
        with pytest.raises(httpx2.TransportError):
            await health(f"https://{address}", client_context(tmp_path))
        with pytest.raises(httpx2.TransportError):
            await health(f"http://{address}")


@pytest.mark.parametrize(
    ("mode", "role", "expected"),
    [
        (ssl.CERT_OPTIONAL, "admin", spiffe_id("admin")),
        (ssl.CERT_OPTIONAL, "", ""),
        (ssl.CERT_REQUIRED, "client", spiffe_id("client")),
        (ssl.CERT_NONE, "admin", ""),
    ],
)
async def test_an_application_is_told_whose_certificate_it_is(
    tmp_path: Path, mode: ssl.VerifyMode, role: str, expected: str
) -> None:
    issue_all(tmp_path)

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        await send_json(send, 200, {"id": scope[CERTIFICATE].spiffe_id})

    files = CertificateFiles.of_role(tmp_path, "gateway")
    tls = partial(server_context, files, client_certificates=lambda: mode)
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(lambda: app, tls):
            verify = client_context(tmp_path, role)
            async with httpx2.AsyncClient(verify=verify) as client:
                answer = await client.get(f"https://{port.address}/")
    assert answer.json() == {"id": expected}


async def test_whether_certificates_are_required_may_change_while_it_runs(tmp_path: Path) -> None:
    issue_all(tmp_path)
    modes = [ssl.CERT_REQUIRED]
    files = CertificateFiles.of_role(tmp_path, "gateway")
    tls = partial(server_context, files, client_certificates=lambda: modes[-1])
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(partial(create_app, None), tls):
            address = f"https://{port.address}"
            with pytest.raises(httpx2.TransportError):
                await health(address, client_context(tmp_path))
            modes.append(ssl.CERT_OPTIONAL)
            assert await health(address, client_context(tmp_path)) == "ok\n"


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


async def status_of(url: str, host: str) -> int:
    async with httpx2.AsyncClient() as client:
        return (await client.get(url, headers={"Host": host})).status_code


async def test_metrics_are_shown_to_no_other_host() -> None:
    hosts = AnsweredHosts(["mesh.example"])
    with HttpPort("127.0.0.1:0") as port:
        async with port.serving(lambda: create_app(metrics_page(PrometheusSink()), hosts=hosts)):
            metrics = f"http://{port.address}/metrics"
            assert await status_of(metrics, "evil.example") == 421
            for host in ("localhost:1", "mesh.example", port.address):
                assert await status_of(metrics, host) == 200
            # It tells nothing, and balancers ask under any name.
            assert await status_of(f"http://{port.address}/healthz", "evil.example") == 200


async def test_the_listener_turns_away_whom_it_has_no_room_for() -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    address = bound.getsockname()
    with BoundedListener(bound, max_open=3) as listener:
        clients = [socket.create_connection(address) for _ in range(5)]
        accepted: list[socket.socket] = []
        for _ in clients:
            with contextlib.suppress(BlockingIOError):
                accepted.append(listener.accept()[0])
        assert len(accepted) == 3
        for client in clients[3:]:
            assert client.recv(1) == b""

        accepted.pop().close()
        clients.append(socket.create_connection(address))
        accepted.append(listener.accept()[0])
        for each in (*clients, *accepted):
            each.close()


async def test_an_exhausted_process_turns_away_and_goes_on() -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    address = bound.getsockname()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with BoundedListener(bound) as listener, socket.create_connection(address) as client:
        used = max(int(name) for name in os.listdir("/dev/fd"))
        held = [os.dup(0) for _ in range(10)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(used, *held), limits[1]))
        try:
            while True:
                try:
                    held.append(os.dup(0))
                except OSError:
                    break
            with pytest.raises(BlockingIOError):
                listener.accept()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for each in held:
                os.close(each)
        assert client.recv(1) == b""
        with socket.create_connection(address):
            listener.accept()[0].close()


async def test_a_listener_without_a_spare_descriptor_says_so_until_it_has_one_again() -> None:
    bound = socket.create_server(("127.0.0.1", 0))
    address = bound.getsockname()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)

    def accept_without_descriptors(listener: BoundedListener) -> int | None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            listener.accept()[0].close()
        except OSError as error:
            return error.errno
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        return 0

    with BoundedListener(bound) as listener, socket.create_connection(address):
        # It gives up its spare one, and does not get it back. An event loop that was told of
        # "nobody waits" would come back at once, for ever.
        assert accept_without_descriptors(listener) is None
        assert accept_without_descriptors(listener) == errno.EMFILE
        listener.accept()[0].close()
        with socket.create_connection(address):
            assert accept_without_descriptors(listener) is None
