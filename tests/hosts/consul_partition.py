"""How late hosts learn of an instance that was registered while they had no Consul server:

    .venv/bin/python -m tests.hosts.consul_partition [--cuts-s 3,10,30,60] [--rto-max-ms 1000]

Two hosts with Consul agents are cut off from the host of the server, one of them registers an
instance meanwhile, and the time counts from the heal until the other one sees it. It needs little
of the machine. Needs root, iproute2 (Linux) and a Consul agent (`make consul`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.hosts.network import Network
from tests.hosts.partition_kinds import both
from tests.hosts.partition_mesh import start_agent
from tests.hosts.setup import until

HOSTS = ("a", "b")
PATIENCE_S = 120.0


class Peers:
    """The processes on both hosts."""

    def __init__(self, network: Network, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("consul", *HOSTS):
            start_agent(network[name], folder, network["consul"].address)
        for name in HOSTS:
            command = (sys.executable, "-m", "tests.hosts.consul_peer", network[name].address, name)
            self._processes[name] = network[name].start(
                *command, log=self._log(name), stdin=subprocess.PIPE
            )

    def register(self, host: str, name: str) -> None:
        stdin = self._processes[host].stdin
        assert stdin is not None
        stdin.write(f"{name}\n".encode())
        stdin.flush()

    def saw_s(self, host: str, name: str) -> float | None:
        """When a host first saw an instance, by the monotonic clock."""
        lines = self._log(host).read_text().splitlines()
        seen = (json.loads(line) for line in lines if line.startswith("["))
        return next((at_s for at_s, names in seen if name in names), None)

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def measure(network: Network, peers: Peers, cut_s: float) -> float:
    """The seconds from the heal."""
    name = f"during-{cut_s:g}"
    ways = both(HOSTS, ["consul"])
    for way in ways:
        network.block(*way)
    time.sleep(cut_s / 2)
    peers.register("a", name)
    time.sleep(cut_s / 2)
    for way in ways:
        network.unblock(*way)
    healed_s = time.monotonic()
    until(lambda: peers.saw_s("b", name), PATIENCE_S)
    return (peers.saw_s("b", name) or 0.0) - healed_s


def main() -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts-s", default="3,10,30,60")
    parser.add_argument("--rto-max-ms", type=int, help="net.ipv4.tcp_rto_max_ms of every host")
    parser.add_argument("--keep", type=Path, help="keep logs in this new directory")
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="mlxmesh-partition-") as temporary,
        Network("consul", *HOSTS) as network,
    ):
        if args.rto_max_ms:
            network.set_rto_max_ms(args.rto_max_ms)
        peers = Peers(network, args.keep or Path(temporary))
        until(lambda: all(peers.saw_s(host, other) for host in HOSTS for other in HOSTS))
        for cut_s in map(float, args.cuts_s.split(",")):
            print(f"{cut_s:g} s: {measure(network, peers, cut_s):.2f} s", flush=True)


if __name__ == "__main__":
    main()
