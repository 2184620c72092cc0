"""A network of hosts: Linux network namespaces, each with addresses and a name of its own.

A switch joins them, so that any of them can be cut off from the others without their noticing:
packets are lost, as with a broken cable between two switches. It needs root and iproute2 (Linux).
"""

from __future__ import annotations

import os
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
END_TIMEOUT_S = 10.0
NAMESPACES = Path("/run/netns")


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
        self, *command: str | Path, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts a command there, its output in a file; it ends with the network at the latest."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.line(*command),
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._started.append(process)
        return process

    def remove(self) -> None:
        """Ends every process there, and then the host."""
        _remove(self.namespace)
        for process in self._started:
            process.wait(END_TIMEOUT_S)


class Network:
    """Hosts by name on one switch; a context that leaves nothing, whatever happened in it.

    Links have no delay: the kernel here lacks netem. tests/chaos/proxy.py can delay.
    """

    def __init__(self, *names: str) -> None:
        self._switch = f"{PREFIX}-{os.getpid()}-switch"
        # Private addresses, as Consul looks for; another network at the same time is not seen here.
        self._hosts = {
            name: Host(name, f"10.213.0.{n}", f"fd00:213::{n}", f"{PREFIX}-{os.getpid()}-{name}")
            for n, name in enumerate(names, start=1)
        }

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

    def close(self) -> None:
        """Ends every process on the hosts, and removes them."""
        for host in self._hosts.values():
            host.remove()
        _remove(self._switch)

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


def _sweep() -> None:
    """Removes what a test process left that was killed."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        owner = name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if name.startswith(f"{PREFIX}-") and owner.isdigit() and not psutil.pid_exists(int(owner)):
            _remove(name)


def _remove(namespace: str) -> None:
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
