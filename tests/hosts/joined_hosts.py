"""Hosts that join a mesh by its commands, as their users type them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hosts.network import Host, Network
from tests.hosts.setup import consul_binary, until

STREAMS = 4
TOKENS = 200
SERVICES = ("gateway", "generation", "runtime")
START_TIMEOUT_S = 240


@dataclass(frozen=True)
class JoinHost:
    """A host whose user has one data directory, as MLXMESH_DATA_DIR says."""

    host: Host
    folder: Path
    hidden: Path | None = None
    """A folder of another host's, which is empty here: these hosts have one disk."""

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    def run(self, line: str) -> str:
        """The output of `mlxmesh ...`, typed as a line; it must succeed."""
        done = self.attempt(line)
        assert done[0] == 0, f"{line}: {done[1]}\n{self.logs()[-4000:]}"
        return done[2]

    def refused(self, line: str) -> str:
        """The error of a command that must fail."""
        code, error, output = self.attempt(line)
        assert code == 1, f"{line}: {code} {output} {error}"
        return error

    def attempt(self, line: str) -> tuple[int, str, str]:
        program, *words = line.split()
        assert program == "mlxmesh"
        env = {
            "MLXMESH_DATA_DIR": str(self.data_dir),
            "CONSUL_BIN": consul_binary(),
            # With the default of 2 s, a busy machine answers a check too late.
            "MLXMESH_CONSUL_CHECK_INTERVAL_S": "8",
            # The bundled model is at one path on both hosts; it has to travel all the same.
            "MLXMESH_RUNTIME_SHARED_PATHS": "false",
        }
        command = (sys.executable, "-m", "mlxmesh_cli", *words)
        if self.hidden is not None:
            covered = 'mount -t tmpfs none "$0" && exec "$@"'
            command = ("unshare", "--mount", "sh", "-c", covered, str(self.hidden), *command)
        done = self.host.run(*command, env=env, timeout_s=START_TIMEOUT_S)
        return done.returncode, done.stderr, done.stdout

    def hosts(self) -> dict[str, dict[str, Any]]:
        """What `mlxmesh hosts` shows, by host."""
        code, _, output = self.attempt("mlxmesh hosts --json")
        return {row["host"]: row for row in json.loads(output)["hosts"]} if code == 0 else {}

    def sees(self, name: str) -> str:
        """The state of a host as this one shows it; empty while it shows none."""
        return self.hosts().get(name, {}).get("state", "")

    def logs(self) -> str:
        files = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in files)

    def agent_checks(self) -> list[tuple[str, str]]:
        """Service and last output of each check of this host's Consul agent."""
        done = self.host.run(sys.executable, "-c", CHECKS, self.data_dir / "tls")
        assert done.returncode == 0, done.stderr
        return [(name, output) for name, output in json.loads(done.stdout)]

    def streams(self, log: Path, model: str = "pocket") -> list[dict[str, Any]]:
        """The outcomes of streams that are read here, through this host's own gateway."""
        gateway = f"{self.host.address}:50051"
        words = (gateway, self.data_dir / "tls", str(STREAMS), str(TOKENS), "0", model)
        process = self.host.start(sys.executable, "-m", "tests.hosts.streams", *words, log=log)
        assert process.wait(150) == 0, log.read_text()
        return json.loads(log.read_text().splitlines()[-1])


class JoinedHosts:
    """Host `a` is the first one, `b` has joined."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network = network
        self.folder = folder
        (folder / "a").mkdir()
        self.a = JoinHost(network["a"], folder / "a")
        self.b = JoinHost(network["b"], folder / "b", hidden=folder / "a")
        self.command_for_b = ""

    @property
    def token(self) -> str:
        return self.command_for_b.rpartition(" ")[2]

    def engines_of(self, name: str) -> list[str]:
        """The engines on a host, by the names of their logs."""
        host = self.a if name == "a" else self.b
        return [path.stem for path in (host.data_dir / "logs").glob("pocket-v*.log")]

    def load_on_both(self) -> None:
        """Has an engine on each host, if it was not so before."""
        self.a.run("mlxmesh load pocket --replicas 2")
        until(lambda: self.serves("a", "engine") and self.serves("b", "engine"))

    def b_serves(self, *more: str) -> bool:
        return self.serves("b", *more)

    def serves(self, name: str, *more: str) -> bool:
        """Whether host a lists the services of a host; what fails its check is not listed."""
        host = self.a.hosts().get(name, {"services": {}})
        return {*SERVICES, *more} <= set(host["services"])

    def drain_runtime_of_a(self) -> None:
        """Has host b's runtime load the replicas of host a, which then has none."""
        rows = json.loads(self.a.run("mlxmesh status --json"))["instances"]
        [runtime] = [row for row in rows if (row["service"], row["host"]) == ("runtime", "a")]
        self.a.run(f"mlxmesh drain {runtime['instance_id']}")
        until(lambda: self.serves("a") and self.serves("b", "engine"))


CHECKS = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[1] + "/ca.crt")
context.load_cert_chain(sys.argv[1] + "/consul.crt", sys.argv[1] + "/consul.key")
address = "https://127.0.0.1:8501/v1/agent/checks"
with urllib.request.urlopen(address, context=context) as answer:
    checks = json.load(answer).values()
print(json.dumps([[check["ServiceName"], check["Output"]] for check in checks]))
"""
