"""The network that tests across hosts stand on: reached, cut, healed, and nothing left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.network import Host, Network

pytestmark = pytest.mark.tools
ANSWER = """
import socket
with socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    while True:
        server.accept()[0].close()
"""
ASK = "import socket, sys; socket.create_connection((sys.argv[1], 7000), 1)"


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network("a", "b", "c") as network:
        for name in "abc":
            network[name].start(sys.executable, "-c", ANSWER, log=tmp_path / f"{name}.log")
        yield network


def reaches(one: Host, other: str) -> bool:
    return one.run(sys.executable, "-c", ASK, other).returncode == 0


def until_reached(one: Host, other: str) -> None:
    deadline_s = time.monotonic() + 30
    while not reaches(one, other):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_hosts_reach_each_other_until_they_are_cut_off(network: Network) -> None:
    a, b, c = (network[name] for name in "abc")
    for one, other in ((a, b), (b, c), (c, a)):
        until_reached(one, other.address)
        until_reached(one, other.address_v6)

    network.split(("a", "b"), ("c",))
    assert reaches(a, b.address)
    assert not reaches(a, c.address)
    assert not reaches(c, b.address_v6)

    network.heal()
    until_reached(a, c.address)


def test_each_host_has_a_name_and_a_loopback_of_its_own(network: Network) -> None:
    assert network["b"].run("hostname").stdout == "b\n"
    listening = "import socket, time; socket.create_server(('127.0.0.1', 7001)); print(1)"
    for name in "abc":
        assert network[name].run(sys.executable, "-c", listening).stdout == "1\n"


class Broken(Exception):
    """What a test ends with."""


def break_with_a_process(network: Network, log: Path) -> None:
    """Leaves a process that ignores every polite request."""
    with network:
        network["a"].start("sh", "-c", "trap '' TERM; while true; do sleep 1; done", log=log)
        raise Broken


def test_nothing_is_left_after_a_failure(tmp_path: Path) -> None:
    network = Network("a")
    with pytest.raises(Broken):
        break_with_a_process(network, tmp_path / "log")

    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert network["a"].namespace not in left.stdout
