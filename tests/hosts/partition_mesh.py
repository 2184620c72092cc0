"""A mesh with each service on a host of its own, and a Consul agent on each host."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.hosts.network import Host, Network
from tests.hosts.setup import GATEWAY_PORT, MODEL, consul_binary, until

MODEL_NAME = "pocket-mini"
GOSSIP_PORT = 8301  # of Consul's agents
PATIENCE_S = 400
SERVICES = {
    "gateway": "gateway",
    "model": "model",
    "generation1": "generation",
    "generation2": "generation",
    "engine1": "runtime",
    "engine2": "runtime",
}
"""The service of each host; the engines run on those of their runtimes."""
HOSTS = ("client", "consul", *SERVICES)
GENERATIONS, ENGINES = ("generation1", "generation2"), ("engine1", "engine2")
ONE_ENGINE_EACH = ["--replicas", str(len(ENGINES))]
# Client agents, which pass each query on to the server.
AGENT = """
bind_addr = "{address}"
client_addr = "127.0.0.1"
data_dir = "{folder}"
node_name = "{name}"
retry_join = ["{server}"]
retry_interval = "1s"
disable_update_check = true
limits {{ http_max_conns_per_client = 500 }}
ports {{ dns = -1 grpc = -1 serf_wan = -1 }}
"""
SERVER = """
server = true
bootstrap_expect = 1
performance { raft_multiplier = 1 }
"""
# Between the agents, and for their checks of services.
AGENT_TLS = """
enable_agent_tls_for_checks = true
tls {{
  defaults {{
    ca_file = "{tls_dir}/ca.crt"
    cert_file = "{tls_dir}/consul.crt"
    key_file = "{tls_dir}/consul.key"
    verify_outgoing = true
  }}
  internal_rpc {{
    verify_incoming = true
    verify_server_hostname = true
  }}
}}
"""


def start_agent(host: Host, folder: Path, server: str, tls_dir: Path | None = None) -> None:
    """Starts a Consul agent, with its files in a folder with the host's name."""
    own = folder / host.name
    own.mkdir(parents=True, exist_ok=True)
    text = AGENT.format(address=host.address, folder=own / "consul", name=host.name, server=server)
    if tls_dir is not None:
        text += AGENT_TLS.format(tls_dir=tls_dir)
    file = own / "agent.hcl"
    file.write_text(text + (SERVER if host.address == server else ""))
    host.start(consul_binary(), "agent", f"-config-file={file}", log=own / "consul.log")


@dataclass
class PartitionMesh:
    """The processes, by host; they end with the network."""

    network: Network
    folder: Path
    tls: bool = False
    named: bool = False
    """Whether hosts know each other by names instead of addresses."""
    processes: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"]
    )

    @property
    def gateway(self) -> str:
        """As the client reaches it."""
        return f"{self._known_as('gateway')}:{GATEWAY_PORT}"

    @property
    def tls_dir(self) -> Path | None:
        """The certificates of every role; None without TLS."""
        return self.folder / "tls" if self.tls else None

    def set_up(self) -> None:
        """Returns when each engine serves the model."""
        if self.named:
            self.network.name_hosts()
        if self.tls_dir is not None:
            for words in (("init",), ("issue", "consul", "--host", "server.dc1.consul")):
                done = self._run("certs", *words, "--dir", self.tls_dir)
                assert done.returncode == 0, done.stderr
        for name in ("consul", *SERVICES):
            server = self.network["consul"].address
            start_agent(self.network[name], self.folder, server, self.tls_dir)
        for name in SERVICES:
            self._configure(name)
            self.start(name)
        until(lambda: len(self.rows()) == len(SERVICES), PATIENCE_S)
        self.command("register", MODEL.parent / MODEL_NAME)
        self.command("load", MODEL_NAME, *ONE_ENGINE_EACH)
        until(self.whole, PATIENCE_S)

    def start(self, name: str) -> None:
        """Starts the service of a host."""
        command = (sys.executable, "-m", f"mlxmesh_{SERVICES[name]}", "--data-dir", self.data(name))
        log = self.folder / name / "service.log"
        self.processes[name] = self.network[name].start(*command, log=log)

    def kill(self, name: str) -> None:
        """Kills the service of a host, as a crash does."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(PATIENCE_S)

    def kill_engine(self, name: str) -> None:
        """Kills the engine of a host; its runtime starts another one."""
        runtime = psutil.Process(self.processes[name].pid)
        for child in runtime.children(recursive=True):
            if "--engine-id" in child.cmdline():
                child.kill()
                return
        raise AssertionError(f"no engine runs on {name}")

    def data(self, name: str) -> Path:
        """The data directory of a host."""
        return self.folder / name / "data"

    def command(self, *words: str | Path) -> str:
        """The output of a command on the model service's host; it must succeed."""
        done = self._mlxmesh(*words)
        assert done.returncode == 0, f"mlxmesh {' '.join(map(str, words))}: {done.stderr}"
        return done.stdout

    def rows(self) -> list[dict[str, Any]]:
        """The instances that serve, as `mlxmesh status` shows them."""
        try:
            done = self._mlxmesh("status", "--json")
        except subprocess.TimeoutExpired:
            return []  # a busy machine
        if done.returncode != 0:
            return []
        rows = json.loads(done.stdout)["instances"]
        return [row for row in rows if row["state"] == "serving"]

    def whole(self) -> bool:
        """Whether every service and engine serves."""
        return len(self.rows()) == len(SERVICES) + len(ENGINES)

    def instance_ids(self) -> dict[str, str]:
        """The id of the generation or the engine on each of these hosts."""
        wanted = ("generation", "engine")
        return {row["host"]: row["instance_id"] for row in self.rows() if row["service"] in wanted}

    def _mlxmesh(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self._run(*words, "--data-dir", self.data("model"))

    def _run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return self.network["model"].run(sys.executable, "-m", "mlxmesh_cli", *words)

    def _known_as(self, name: str) -> str:
        return name if self.named else self.network[name].address

    def _configure(self, name: str) -> None:
        secured = (
            "insecure_listen = true" if self.tls_dir is None else f'tls_dir = "{self.tls_dir}"'
        )
        lines = [
            "[mesh]",
            'registry = "consul"',
            secured,
            f'advertise_host = "{self._known_as(name)}"',
            "telemetry = false",
            "[consul]",
            'address = "127.0.0.1:8500"',
        ]
        for service in ("gateway", "generation", "model", "runtime", "engine"):
            port = GATEWAY_PORT if service == "gateway" else 0
            lines += [f"[{service}]", f'listen = "0.0.0.0:{port}"']
            if service == "gateway":
                lines.append('authentication = "off"')
        self.data(name).mkdir()
        (self.data(name) / "mlxmesh.toml").write_text("\n".join(lines) + "\n")
