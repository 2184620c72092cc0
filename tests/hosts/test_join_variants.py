"""Hosts that join a mesh with a Consul of their owner's, and over IPv6."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.joined_hosts import TOKENS, JoinedHosts, JoinHost
from tests.hosts.network import Network
from tests.hosts.setup import RECIPE, consul_binary, until

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]

CONSUL = "--consul-address 127.0.0.1:8500"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[JoinedHosts]:
    with Network("a", "b") as network:
        yield JoinedHosts(network, tmp_path)


def invite(mesh: JoinedHosts) -> str:
    """The command that joins host b."""
    return mesh.a.run("mlxmesh hosts invite").splitlines()[-1]


def check_both_serve(mesh: JoinedHosts, folder: Path) -> None:
    """Each host answers by the engines of both."""
    mesh.load_on_both()
    for host, gateway in ((mesh.a, "a"), (mesh.b, "b")):
        outcomes = host.streams(folder / f"streams-{gateway}")
        assert {outcome.get("reason") for outcome in outcomes} == {None}
        assert {len(outcome["tokens"]) for outcome in outcomes} == {TOKENS}


def start_agent(mesh: JoinedHosts, host: JoinHost, *, server: bool) -> None:
    """An agent of the owner's, with TLS for health checks only, as deploy/consul/tls.hcl says."""
    tls, folder = host.folder / "agent-tls", host.folder / "agent"
    tls.mkdir(parents=True)
    for name in ("ca.crt", "consul.crt", "consul.key"):
        (tls / name).write_bytes((mesh.a.data_dir / "tls" / name).read_bytes())
    text = (RECIPE / "tls.hcl").read_text().replace("/etc/mlxmesh/tls", str(tls))
    settings = {
        "data_dir": str(folder),
        "bind_addr": host.host.address,
        "retry_join": [mesh.a.host.address],
        "server": server,
        **({"bootstrap_expect": 1} if server else {}),
        "ports": {"dns": -1, "grpc": -1, "http": 8500, "https": -1},
        "limits": {"http_max_conns_per_client": 500},
    }
    (host.folder / "tls.hcl").write_text(text.partition("ports {")[0])
    (host.folder / "agent.json").write_text(json.dumps(settings))
    files = (f"-config-file={host.folder / name}" for name in ("tls.hcl", "agent.json"))
    host.host.start(consul_binary(), "agent", *files, log=host.folder / "agent.log")


def test_hosts_use_agents_of_their_owner(hosts: JoinedHosts, tmp_path: Path) -> None:
    hosts.a.run(f"mlxmesh certs init --dir {hosts.a.data_dir / 'tls'}")
    hosts.a.run(
        f"mlxmesh certs issue consul --host server.dc1.consul --dir {hosts.a.data_dir / 'tls'}"
    )
    start_agent(hosts, hosts.a, server=True)
    start_agent(hosts, hosts.b, server=False)
    hosts.a.run(f"mlxmesh up --hosts {CONSUL} --detach")
    command = invite(hosts)

    # A host that would start its own is told so before it uses the token up.
    assert "with --consul-address" in hosts.b.refused(command)
    hosts.b.run(f"{command} {CONSUL} --detach")

    until(hosts.b_serves)
    check_both_serve(hosts, tmp_path)
    for host in (hosts.a, hosts.b):
        assert not (host.data_dir / "logs" / "consul.log").exists()
    hosts.b.run("mlxmesh down")
    hosts.b.run("mlxmesh up --detach")
    until(hosts.b_serves)


def test_hosts_reach_each_other_over_ipv6(hosts: JoinedHosts, tmp_path: Path) -> None:
    a, b = (host.host.address_v6 for host in (hosts.a, hosts.b))
    hosts.a.run(f"mlxmesh up --hosts --advertise {a} --detach")
    command = invite(hosts)
    assert f"--join [{a}]:50052 " in command
    hosts.b.run(f"{command} --detach")
    until(hosts.b_serves)
    found = hosts.a.hosts()
    assert {name: row["address"] for name, row in found.items()} == {"a": a, "b": b}
    check_both_serve(hosts, tmp_path)
    hosts.b.run("mlxmesh down")
    until(lambda: hosts.a.sees("b") == "away")
    hosts.a.run("mlxmesh hosts remove b --yes")
