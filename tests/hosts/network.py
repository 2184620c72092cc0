"""A network of hosts: Linux network namespaces, each with addresses and a name of its own.

A switch joins them, so that any of them can be cut off from the others without their noticing:
packets are lost, as with a broken cable between two switches. It needs root and iproute2 (Linux).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

PREFIX = "mlxmesh-test"
END_TIMEOUT_S = 30.0
NAMESPACES = Path("/run/netns")
ROOT = Path(__file__).resolve().parents[2]
NOBODYS_CARD = "02:00:00:00:de:ad"
DISABLE_OFFLOAD = "from tests.hosts.lossy_link import disable_offload; disable_offload('eth0')"


def require_network() -> None:
    """Skips the test where no network can be made; fails it in CI, which must be able to."""
    if reason := _why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def _why_not() -> str:
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "iproute2 is missing"
    return ""


@dataclass(frozen=True)
class Host:
    """One host; its files are the machine's, its processes see only its own network."""

    name: str
    """Its host name."""
    address: str
    address_v6: str
    namespace: str
    """What `ip netns` knows it by."""
    _started: list[subprocess.Popen[bytes]] = field(default_factory=list[subprocess.Popen[bytes]])

    @property
    def files(self) -> Path:
        """What `ip netns exec` puts in the place of the machine's own files in /etc."""
        return _files(self.namespace)

    def line(self, *command: str | Path) -> list[str]:
        """The command line that runs a command there."""
        named = 'hostname "$0" && exec "$@"'
        inside = ["unshare", "--uts", "sh", "-c", named, self.name, *map(str, command)]
        return ["ip", "netns", "exec", self.namespace, *inside]

    def run(
        self,
        *command: str | Path,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command there to its end."""
        return subprocess.run(
            self.line(*command),
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )

    def start(
        self,
        *command: str | Path,
        log: Path,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Starts a command there, its output in a file; it ends with the network at the latest."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.line(*command),
                env={**os.environ, **(env or {})},
                stdin=stdin,
                stdout=output,
                stderr=output,
            )
        self._started.append(process)
        return process

    def heard_s(self, addresses: Sequence[str], except_port: int) -> list[float]:
        """How long ago each connection by TCP to these last had data, but those of one port."""
        found: list[float] = []
        shown = _run("ss", "-N", self.namespace, "-OHtni", "state", "established")
        for line in shown.splitlines():
            here, there = (end.rpartition(":") for end in line.split()[2:4])
            address = there[0].strip("[]").removeprefix("::ffff:")
            age = re.search(r"lastrcv:(\d+)", line)
            if address in addresses and str(except_port) not in (here[2], there[2]) and age:
                found.append(int(age[1]) / 1000)
        return found

    def remove(self) -> None:
        """Ends every process there, and then the host."""
        # One that has just been started may not be there yet.
        for process in self._started:
            process.kill()
        _remove(self.namespace)
        for process in self._started:
            process.wait(END_TIMEOUT_S)


class Network:
    """Hosts by name on one switch; a context that leaves nothing, whatever happened in it.

    Links have no delay and lose nothing until `degrade`, which works without netem in the kernel.
    """

    def __init__(self, *names: str) -> None:
        self._switch = f"{PREFIX}-{os.getpid()}-switch"
        # Private addresses, as Consul looks for; another network at the same time is not seen here.
        self._hosts = {
            name: Host(name, f"10.213.0.{n}", f"fd00:213::{n}", f"{PREFIX}-{os.getpid()}-{name}")
            for n, name in enumerate(names, start=1)
        }
        self._blocked: set[tuple[str, str]] = set()
        self._lossy: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Network:
        require_network()
        _sweep()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def split(self, *groups: Sequence[str]) -> None:
        """Leaves each host only those of its own group; packets to others are lost."""
        for number, group in enumerate(groups):
            for name in group:
                _ip(self._switch, "link", "set", "dev", name, "master", f"bridge{number}")

    def heal(self) -> None:
        """Joins all hosts again."""
        self.split(tuple(self._hosts))
        for source, destination in tuple(self._blocked):
            self.unblock(source, destination)

    def block(self, source: str, destination: str) -> None:
        """Loses every packet from one host to another; those of the other direction pass.

        Neither notices: the packets go to a network card that no host has.
        """
        self._blocked.add((source, destination))
        for address in self._addresses(destination):
            entry = (address, "lladdr", NOBODYS_CARD, "dev", "eth0", "nud", "permanent")
            _ip(self._hosts[source].namespace, "neigh", "replace", *entry)

    def unblock(self, source: str, destination: str) -> None:
        """Ends `block`."""
        self._blocked.discard((source, destination))
        for address in self._addresses(destination):
            _ip(self._hosts[source].namespace, "neigh", "del", address, "dev", "eth0")

    def name_hosts(self) -> None:
        """Has processes that start from now on find each host by its name, as by /etc/hosts."""
        lines = [f"{host.address} {host.name}" for host in self._hosts.values()]
        text = "\n".join(("127.0.0.1 localhost", *lines, ""))
        for host in self._hosts.values():
            host.files.mkdir(parents=True, exist_ok=True)
            (host.files / "hosts").write_text(text)

    def set_rto_max_ms(self, rto_max_ms: int) -> None:
        """Has TCP retransmit at least so often (Linux 6.15); by default pauses double to 120 s."""
        for host in self._hosts.values():
            done = host.run("sh", "-c", f"echo {rto_max_ms} > /proc/sys/net/ipv4/tcp_rto_max_ms")
            assert done.returncode == 0, done.stderr

    def degrade(self, name: str, *, delay_s: float, loss: float, seed: int = 1) -> None:
        """Each packet to and from the host is delayed, and lost with a probability.

        Not to be combined with `split`.
        """
        host = self._hosts[name]
        near, far = _ends_of_lossy_link(name)
        pair = (near, "type", "veth", "peer", "name", far)
        _ip(self._switch, "link", "add", *pair)
        _ip(self._switch, "link", "set", "dev", far, "master", "bridge0", "up")
        _ip(self._switch, "link", "set", "dev", near, "up")
        done = host.run(sys.executable, "-c", DISABLE_OFFLOAD)
        assert done.returncode == 0, done.stderr
        figures = (f"{1000 * delay_s:g}", f"{loss:g}", str(seed))
        command = (sys.executable, "-m", "tests.hosts.lossy_link", name, near, far, *figures)
        process = subprocess.Popen(
            ["ip", "netns", "exec", self._switch, *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self._lossy[name] = process
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        _ip(self._switch, "link", "set", "dev", name, "nomaster")

    def restore(self, name: str) -> None:
        """Ends `degrade`."""
        _ip(self._switch, "link", "set", "dev", name, "master", "bridge0")
        process = self._lossy.pop(name)
        process.kill()
        process.wait(END_TIMEOUT_S)
        assert process.stdout is not None
        process.stdout.close()
        _ip(self._switch, "link", "delete", _ends_of_lossy_link(name)[0])

    def _addresses(self, name: str) -> tuple[str, str]:
        host = self._hosts[name]
        return host.address, host.address_v6

    def close(self) -> None:
        """Ends every process on the hosts, and removes them."""
        for host in self._hosts.values():
            host.remove()
        _remove(self._switch)
        for process in self._lossy.values():
            process.wait(END_TIMEOUT_S)
            assert process.stdout is not None
            process.stdout.close()

    def _make(self) -> None:
        _run("ip", "netns", "add", self._switch)
        # A bridge for each group that the hosts may be split into.
        for number in range(len(self._hosts)):
            _ip(self._switch, "link", "add", f"bridge{number}", "type", "bridge")
            _ip(self._switch, "link", "set", "dev", f"bridge{number}", "up")
        for host in self._hosts.values():
            self._add(host)

    def _add(self, host: Host) -> None:
        _run("ip", "netns", "add", host.namespace)
        port = ("type", "veth", "peer", "name", host.name, "netns", self._switch)
        _ip(host.namespace, "link", "add", "eth0", *port)
        _ip(host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
        # Not checked for duplicates, which would take a second.
        _ip(host.namespace, "address", "add", f"{host.address_v6}/64", "dev", "eth0", "nodad")
        for link in ("lo", "eth0"):
            _ip(host.namespace, "link", "set", "dev", link, "up")
        _ip(self._switch, "link", "set", "dev", host.name, "master", "bridge0", "up")


def _ends_of_lossy_link(name: str) -> tuple[str, str]:
    return f"{name}-in", f"{name}-out"


def _sweep() -> None:
    """Removes what a test process left that was killed."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if name.startswith(f"{PREFIX}-") and owner.isdigit() and not psutil.pid_exists(int(owner)):
            # Another test process may be sweeping too.
            with suppress(AssertionError):
                _remove(name)


def _files(namespace: str) -> Path:
    return Path("/etc/netns") / namespace


def _remove(namespace: str) -> None:
    shutil.rmtree(_files(namespace), ignore_errors=True)
    with suppress(OSError):  # there is none, or that of another network is in it
        _files(namespace).parent.rmdir()
    if not (NAMESPACES / namespace).exists():
        return
    deadline_s = time.monotonic() + END_TIMEOUT_S
    # A process that is killed may have started another one just before.
    while (pids := _run("ip", "netns", "pids", namespace).split()) and (
        time.monotonic() < deadline_s
    ):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.05)
    _run("ip", "netns", "delete", namespace)


def _ip(namespace: str, *words: str) -> None:
    _run("ip", "-netns", namespace, *words)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
