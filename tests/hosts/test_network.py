"""The network that tests across hosts stand on: reached, cut, healed, and nothing left."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.network import Host, Network
from tests.hosts.setup import until

pytestmark = pytest.mark.tools
ANSWER = """
import socket
with socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    while True:
        server.accept()[0].close()
"""
ASK = "import socket, sys; socket.create_connection((sys.argv[1], 7000), 1)"
HEAR = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
    heard.bind(("0.0.0.0", 7002))
    print("hearing", flush=True)
    print(heard.recv(100), flush=True)
"""
TELL = """
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"told", (sys.argv[1], 7002))
"""
# A mebibyte for each connection by TCP, and an echo by UDP.
SERVE_MEBIBYTE = """
import contextlib, socket, threading
echoed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
echoed.bind(("0.0.0.0", 7003))
def echo():
    while True:
        echoed.sendto(*echoed.recvfrom(100))
threading.Thread(target=echo).start()
with socket.create_server(("0.0.0.0", 7003)) as server:
    while True:
        # Who only asks whether it listens leaves at once.
        with server.accept()[0] as connection, contextlib.suppress(OSError):
            connection.sendall(bytes(2**20))
"""
FETCH_MEBIBYTE = """
import socket, sys, time
begun_s = time.monotonic()
with socket.create_connection((sys.argv[1], 7003), 30) as connection:
    took_s = time.monotonic() - begun_s
    size = 0
    while data := connection.recv(65536):
        size += len(data)
print(size, took_s)
"""
# How many datagrams come back; the last argument is how long to wait for one.
ECHOES = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
    asked.settimeout(float(sys.argv[3]))
    for number in range(int(sys.argv[2])):
        asked.sendto(b"%d" % number, (sys.argv[1], 7003))
    came = 0
    try:
        while asked.recv(100):
            came += 1
            if came == int(sys.argv[2]):
                break
    except TimeoutError:
        pass
print(came)
"""


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Network]:
    with Network("a", "b", "c") as network:
        for name in "abc":
            network[name].start(sys.executable, "-c", ANSWER, log=tmp_path / f"{name}.log")
        yield network


def reaches(one: Host, other: str, port: int = 7000) -> bool:
    asked = ASK.replace("7000", str(port))
    return one.run(sys.executable, "-c", asked, other).returncode == 0


def until_reached(one: Host, other: str, port: int = 7000) -> None:
    deadline_s = time.monotonic() + 60
    while not reaches(one, other, port):
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def echoes(one: Host, other: str, sent: int, wait_s: float) -> int:
    done = one.run(sys.executable, "-c", ECHOES, other, str(sent), str(wait_s))
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_hosts_reach_each_other_until_they_are_cut_off(network: Network) -> None:
    a, b, c = (network[name] for name in "abc")
    for one, other in ((a, b), (b, c), (c, a)):
        until_reached(one, other.address)
        until_reached(one, other.address_v6)

    network.split(("a", "b"), ("c",))
    until_reached(a, b.address)
    assert not reaches(a, c.address)
    assert not reaches(c, b.address_v6)

    network.heal()
    until_reached(a, c.address)


def test_packets_pass_one_way_only(network: Network, tmp_path: Path) -> None:
    a, b, c = (network[name] for name in "abc")
    until_reached(a, b.address)
    log = tmp_path / "heard.log"
    b.start(sys.executable, "-c", HEAR, log=log)
    until(lambda: log.read_text().startswith("hearing"))

    network.block("b", "a")
    assert not reaches(a, b.address)
    assert not reaches(a, b.address_v6)
    assert a.run(sys.executable, "-c", TELL, b.address).returncode == 0
    until(lambda: log.read_text() == "hearing\nb'told'\n")
    until_reached(a, c.address)

    network.unblock("b", "a")
    until_reached(a, b.address)
    until_reached(b, a.address_v6)


def test_a_degraded_link_delays_and_loses_packets_and_tcp_gets_through(network: Network) -> None:
    a, b = network["a"], network["b"]
    until_reached(a, b.address)
    b.start(sys.executable, "-c", SERVE_MEBIBYTE, log=Path("/dev/null"))
    until_reached(a, b.address, 7003)
    network.degrade("b", delay_s=0.02, loss=0.1)
    until_reached(a, b.address)
    fetched = a.run(sys.executable, "-c", FETCH_MEBIBYTE, b.address)
    assert fetched.returncode == 0, fetched.stderr
    size, least_s = fetched.stdout.split()
    assert int(size) == 2**20
    assert float(least_s) >= 0.04

    sent = 200
    assert 0 < echoes(a, b.address, sent, wait_s=3) < sent

    network.restore("b")
    assert echoes(a, b.address, sent, wait_s=30) == sent


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


# Sends a byte to whoever connects, and then holds the connection.
SEND = """
import socket
held = []
with socket.create_server(("0.0.0.0", 7004)) as server:
    while True:
        held.append(server.accept()[0])
        held[-1].sendall(b"1")
"""
RECEIVE = """
import socket, sys, time
with socket.create_connection((sys.argv[1], 7004), 30) as connection:
    print(connection.recv(1), flush=True)
    time.sleep(600)
"""


def test_it_is_known_when_a_connection_last_had_data(network: Network, tmp_path: Path) -> None:
    a, b = network["a"], network["b"]
    b.start(sys.executable, "-c", SEND, log=Path("/dev/null"))
    until_reached(a, b.address, 7004)
    assert a.heard_s([b.address], except_port=1) == []
    log = tmp_path / "received.log"
    begun_s = time.monotonic()
    a.start(sys.executable, "-c", RECEIVE, b.address, log=log)
    until(lambda: log.read_text() == "b'1'\n")
    [ago_s] = a.heard_s([b.address], except_port=1)
    assert 0 <= ago_s <= time.monotonic() - begun_s
    assert a.heard_s([b.address], except_port=7004) == []
    assert a.heard_s([network["c"].address], except_port=1) == []
