"""Certificates renew themselves while streams run: of the first host, of one that joined, and of
both Consul agents. Then those of a host that was forced out are refused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlxmesh_launcher.certificate_directory import read_certificates
from tests.hosts.joined_hosts import SERVICES, TOKENS, JoinedHosts, JoinHost
from tests.hosts.network import Network
from tests.hosts.setup import until

pytestmark = [pytest.mark.tools, pytest.mark.timeout(900)]

LIFETIME_S = 180
STREAMS = 2


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JoinedHosts]:
    with Network("a", "b") as network:
        mesh = JoinedHosts(network, tmp_path_factory.mktemp("renewal"))
        mesh.a.run(f"mlxmesh up --hosts --certificates-for {LIFETIME_S}s --detach")
        mesh.command_for_b = mesh.a.run("mlxmesh hosts invite").splitlines()[-1]
        mesh.b.run(mesh.command_for_b + " --detach")
        yield mesh


def expiries(host: JoinHost) -> dict[str, datetime]:
    found = read_certificates(host.data_dir / "tls")
    return {each.role: each.expires for each in found if each.role != "ca"}


def shown_by_agent(host: JoinHost) -> datetime:
    """When the certificate expires that the host's Consul agent shows."""
    done = host.host.run(sys.executable, "-c", SHOWN, host.data_dir / "tls")
    assert done.returncode == 0, done.stderr
    return datetime.fromtimestamp(float(done.stdout), UTC)


SHOWN = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1] + "/ca.crt")
context.load_cert_chain(sys.argv[1] + "/consul.crt", sys.argv[1] + "/consul.key")
with socket.create_connection(("127.0.0.1", 8501), timeout=30) as plain:
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
        print(ssl.cert_time_to_seconds(secured.getpeercert()["notAfter"]))
"""


def test_streams_go_on_while_all_certificates_are_renewed(
    mesh: JoinedHosts, tmp_path: Path
) -> None:
    mesh.load_on_both()
    hosts = (mesh.a, mesh.b)
    first = max(expiry for host in hosts for expiry in expiries(host).values())
    longest = first + timedelta(seconds=LIFETIME_S / 2)
    seconds = (longest - datetime.now(UTC)).total_seconds()
    log = tmp_path / "streams"
    words = (f"{mesh.b.host.address}:50051", mesh.b.data_dir / "tls", STREAMS, TOKENS, seconds)
    process = mesh.b.host.start(
        sys.executable, "-m", "tests.hosts.streams", *map(str, words), log=log
    )
    until(lambda: datetime.now(UTC) > first + timedelta(seconds=5), 2 * LIFETIME_S)
    # Whatever was shown at the beginning is not valid any more.
    for host in hosts:
        assert min(expiries(host).values()) > first, host.logs()[-4000:]
        assert shown_by_agent(host) > first, host.logs()[-4000:]
    assert process.wait(LIFETIME_S + 150) == 0, log.read_text()
    outcomes = json.loads(log.read_text().splitlines()[-1])
    assert {outcome.get("reason") for outcome in outcomes} == {None}
    assert {len(outcome["tokens"]) for outcome in outcomes} == {TOKENS}

    # New connections too: from the agents, of commands, and between the hosts.
    until(lambda: mesh.b_serves("engine"))
    for host in hosts:
        until(lambda host=host: all("success" in output for _, output in host.agent_checks()))
    outcomes = mesh.a.streams(tmp_path / "a")
    assert {outcome.get("reason") for outcome in outcomes} == {None}
    for service in SERVICES:
        log = (mesh.b.data_dir / "logs" / f"{service}.log").read_text()
        assert "cannot be reached (" not in log


def test_a_host_that_was_forced_out_is_refused(mesh: JoinedHosts) -> None:
    asks = f"mlxmesh models --address {mesh.a.host.address}:50051"
    mesh.b.run(asks)
    assert "--force" in mesh.a.refused("mlxmesh hosts remove b --yes")
    mesh.a.run("mlxmesh hosts remove b --force --yes")
    until(lambda: "the certificate was recalled" in mesh.b.attempt(asks)[1])
    # The first host serves on, and so do those that join now.
    assert mesh.a.run("mlxmesh generate Hi --model pocket --max-tokens 5").strip()
