"""Two hosts with Consul, TLS and access control, services started by hand; then a broken link."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.network import Network
from tests.hosts.setup import MeshHost, TwoHosts, until

pytestmark = [pytest.mark.tools, pytest.mark.timeout(600)]

STREAMS = 6
TOKENS = 800
EVERYBODY = [
    *(("engine", host) for host in "ab"),
    ("gateway", "a"),
    *(("generation", host) for host in "ab"),
    ("model", "a"),
    *(("runtime", host) for host in "ab"),
]


IPV4_ONLY = pytest.mark.parametrize("mesh", ["ipv4"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=["ipv6", "ipv4"])
def mesh(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoHosts]:
    with Network("a", "b") as network:
        mesh = TwoHosts(network, tmp_path_factory.mktemp("hosts"), ipv6=request.param == "ipv6")
        mesh.set_up()
        yield mesh


def all_back(found: Sequence[tuple[str, str]]) -> bool:
    """Whether every service is there; an engine that was away may have a successor on host a."""
    services = [each for each in found if each[0] != "engine"]
    return len(found) == len(EVERYBODY) and services == [e for e in EVERYBODY if e[0] != "engine"]


class Streams:
    """Streams that are read on host a, through its gateway."""

    def __init__(self, mesh: TwoHosts, log: Path) -> None:
        words = ("tests.hosts.streams", mesh.a.gateway, mesh.a.tls_dir, str(STREAMS), str(TOKENS))
        self._log = log
        self._process = mesh.a.host.start(sys.executable, "-m", *words, log=log)
        until(self.begun)

    def begun(self) -> bool:
        assert self._process.poll() in (None, 0), self._log.read_text()
        return self._log.read_text().startswith("begun\n")

    def outcomes(self) -> list[dict[str, Any]]:
        assert self._process.wait(150) == 0, self._log.read_text()
        return json.loads(self._log.read_text().splitlines()[-1])


def test_every_process_serves_on_both_hosts(mesh: TwoHosts) -> None:
    until(lambda: mesh.serving() == EVERYBODY)
    addresses = {row["address"].rpartition(":")[0].strip("[]") for row in mesh.rows()}
    assert addresses == {mesh.a.address, mesh.b.address}


def test_the_agents_checks_pass(mesh: TwoHosts) -> None:
    """By TLS: a check that fails would only be seen once an instance is new to its readers."""
    for host in (mesh.a, mesh.b):
        until(lambda host=host: all_pass(mesh, host))


def all_pass(mesh: TwoHosts, host: MeshHost) -> bool:
    done = host.host.run(
        *(sys.executable, "-c", CHECKS, host.tls_dir / "ca.crt", mesh.tokens["operator"])
    )
    assert done.returncode == 0, done.stderr
    checks = json.loads(done.stdout)
    return bool(checks) and all(
        status == "passing" and "success" in output for status, output in checks
    )


CHECKS = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1])
asked = urllib.request.Request(
    "https://127.0.0.1:8501/v1/agent/checks", headers={"X-Consul-Token": sys.argv[2]}
)
with urllib.request.urlopen(asked, context=context) as answer:
    checks = json.load(answer).values()
print(json.dumps([[check["Status"], check["Output"]] for check in checks]))
"""


def test_commands_find_services_that_were_started_by_hand(mesh: TwoHosts) -> None:
    assert json.loads(mesh.command("models", "--json"))["models"]
    assert mesh.command("generate", "Hi", "--max-tokens", "5").strip()
    until(lambda: mesh.known() == EVERYBODY)
    by_address = mesh.a.mlxmesh(
        *("generate", "Hi", "--max-tokens", "5", "--address", mesh.a.gateway),
        *("--data-dir", mesh.a.data_dir),
    )
    assert by_address.strip()


@IPV4_ONLY
def test_streams_go_on_when_the_link_breaks_and_the_host_comes_back(
    mesh: TwoHosts, tmp_path: Path
) -> None:
    undisturbed = Streams(mesh, tmp_path / "undisturbed").outcomes()
    [whole] = {tuple(outcome["tokens"]) for outcome in undisturbed}
    assert len(whole) == TOKENS

    streams = Streams(mesh, tmp_path / "cut")
    mesh.network.split("a", "b")
    outcomes = streams.outcomes()
    assert [outcome.get("reason") for outcome in outcomes] == [None] * STREAMS
    assert {tuple(outcome["tokens"]) for outcome in outcomes} == {whole}
    assert sum(outcome["resumptions"] for outcome in outcomes) >= 1
    # Both the gateway and Consul have given the host up.
    until(lambda: {host for _, host in mesh.known()} == {"a"})
    until(lambda: {host for _, host in mesh.serving()} == {"a"})

    mesh.network.heal()
    took_s = until(lambda: all_back(mesh.known()))
    print(f"the gateway uses host b again {took_s:.1f} s after the link was there")
    again = Streams(mesh, tmp_path / "again").outcomes()
    assert {tuple(outcome["tokens"]) for outcome in again} == {whole}
    until(lambda: all_back(mesh.serving()))


@IPV4_ONLY
def test_a_stream_whose_last_engine_is_cut_off_ends_with_a_status_to_try_again_on(
    mesh: TwoHosts, tmp_path: Path
) -> None:
    until(lambda: all_back(mesh.serving()))
    # Host a leaves nothing but what callers need.
    mesh.stop_service(mesh.a, "runtime")
    mesh.stop_service(mesh.a, "generation")
    until(lambda: {host for service, host in mesh.known() if service == "engine"} == {"b"})

    streams = Streams(mesh, tmp_path / "cut")
    mesh.network.split("a", "b")
    outcomes = streams.outcomes()
    mesh.network.heal()

    for outcome in outcomes:
        assert outcome["retryable"], outcome
        assert outcome["reason"] in ("ENGINE_LOST", "INSTANCE_LOST", "SERVICE_UNAVAILABLE")
        assert len(outcome["tokens"]) < TOKENS
