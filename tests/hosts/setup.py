"""A mesh on several hosts, set up step by step as deploy/consul/README.md says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlxmesh_cli.commands.failures import NO_MESH
from mlxmesh_shared.tls.identity import ROLES
from tests.fakes.tools import tool
from tests.hosts.network import Host, Network

RECIPE = Path(__file__).resolve().parents[2] / "deploy" / "consul"
MODEL = RECIPE.parent / "demo-model" / "pocket"
PATIENCE_S = 120
GATEWAY_PORT = 50051


def until(true: Callable[[], object], timeout_s: float = PATIENCE_S) -> float:
    """Waits until it is so; returns how long that took, in seconds."""
    begun_s = time.monotonic()
    while not true():
        if time.monotonic() - begun_s > timeout_s:
            pytest.fail(f"not within {timeout_s:g} s: {true.__name__}")
        time.sleep(0.2)
    return time.monotonic() - begun_s


@dataclass
class MeshHost:
    """A host of the mesh: its files in a folder, where a real one has them under /etc and /var."""

    host: Host
    folder: Path
    address: str
    """The one that it tells others."""
    services: dict[str, subprocess.Popen[bytes]] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"]
    )

    @property
    def tls_dir(self) -> Path:
        return self.folder / "tls"

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def gateway(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{GATEWAY_PORT}"

    def mlxmesh(self, *words: str | Path, token: str = "") -> str:
        """The output of a command; it must succeed."""
        done = self.try_mlxmesh(*words, token=token)
        assert done.returncode == 0, f"mlxmesh {' '.join(map(str, words))}: {done.stderr}"
        return done.stdout

    def try_mlxmesh(self, *words: str | Path, token: str = "") -> subprocess.CompletedProcess[str]:
        env = {"MLXMESH_CONSUL_TOKEN": token} if token else {}
        return self.host.run(sys.executable, "-m", "mlxmesh_cli", *words, env=env)

    def consul(self, *words: str | Path, token: str = "") -> str:
        """The output of a command of Consul's; it must succeed."""
        done = self.try_consul(*words, token=token)
        assert done.returncode == 0, f"consul {' '.join(map(str, words))}: {done.stderr}"
        return done.stdout

    def try_consul(self, *words: str | Path, token: str = "") -> subprocess.CompletedProcess[str]:
        return self.host.run(consul_binary(), *words, env=self.consul_env(token))

    def consul_env(self, token: str) -> dict[str, str]:
        return {
            "CONSUL_HTTP_ADDR": "https://127.0.0.1:8501",
            "CONSUL_CACERT": str(self.tls_dir / "ca.crt"),
            "CONSUL_HTTP_TOKEN": token,
        }

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()


def consul_binary() -> str:
    """As `make test-rest` names it, or as `make consul` leaves it."""
    return os.environ.get("CONSUL_BIN") or tool("consul")


class TwoHosts:
    """Host `a` has every service and the Consul server, host `b` a generation and a runtime."""

    def __init__(self, network: Network, folder: Path, *, ipv6: bool = False) -> None:
        self.network = network
        self.a, self.b = (
            MeshHost(host, folder / name, host.address_v6 if ipv6 else host.address)
            for name, host in (("a", network["a"]), ("b", network["b"]))
        )
        self.tokens: dict[str, str] = {}
        for host in (self.a, self.b):
            host.data_dir.mkdir(parents=True)

    def set_up(self) -> None:
        """Every step of the recipe, and a model loaded once on each host."""
        self._make_certificates()
        self._start_agents()
        self._make_tokens()
        for host, services in (
            (self.a, ("runtime", "model", "generation", "gateway")),
            (self.b, ("runtime", "generation")),
        ):
            self._configure(host)
            for service in services:
                self.start_service(host, service)
        until(self.all_serve)
        self.command("register", MODEL)
        self.command("load", "pocket", "--replicas", "2")
        until(self.all_serve)

    def command(self, *words: str | Path) -> str:
        """A command of the operator's, on host a."""
        return self.a.mlxmesh(*words, "--data-dir", self.a.data_dir, token=self.tokens["operator"])

    def rows(self) -> list[dict[str, Any]]:
        """The instances that `mlxmesh status` shows; none before the first is registered."""
        words = ("status", "--json", "--data-dir", self.a.data_dir)
        done = self.a.try_mlxmesh(*words, token=self.tokens["operator"])
        if done.returncode == NO_MESH:
            return []
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["instances"]

    def serving(self) -> list[tuple[str, str]]:
        """Service and host of each that serves."""
        rows = self.rows()
        return sorted((row["service"], row["host"]) for row in rows if row["state"] == "serving")

    def known(self) -> list[tuple[str, str]]:
        """Service and host of each that the gateway sends calls to."""
        rows = json.loads(self.command("top", "--json"))["instances"]
        serving = [row for row in rows if row["health"] == "serving"]
        return sorted((row["service"], row["metadata"]["host"]) for row in serving)

    def all_serve(self) -> bool:
        """Whether every process that was started serves."""
        wanted = {(service, name) for name in "ab" for service in self._host(name).services}
        return wanted <= set(self.serving())

    def start_service(self, host: MeshHost, service: str) -> None:
        """By hand, with its own token in its environment."""
        command = (sys.executable, "-m", f"mlxmesh_{service}", "--data-dir", host.data_dir)
        env = {"MLXMESH_CONSUL_TOKEN": self.tokens[service]}
        log = host.folder / f"{service}.log"
        host.services[service] = host.host.start(*command, log=log, env=env)

    def stop_service(self, host: MeshHost, service: str) -> None:
        """Asks it to leave, and waits until it has."""
        process = host.services.pop(service)
        process.terminate()
        assert process.wait(PATIENCE_S) == 0, host.log(service)

    def _host(self, name: str) -> MeshHost:
        return self.a if name == "a" else self.b

    def _make_certificates(self) -> None:
        a, b = self.a.tls_dir, self.b.tls_dir
        b.mkdir()
        self.a.mlxmesh("certs", "init", "--dir", a)
        # b first: what is issued last is what stays on a, whose agent is a server.
        for host, words in ((self.b, ()), (self.a, ("--host", "server.dc1.consul"))):
            self.a.mlxmesh("certs", "issue", "consul", *words, "--dir", a)
            if host is self.b:
                for name in ("ca.crt", "consul.crt", "consul.key"):
                    shutil.copy(a / name, b)
        for role in ROLES:
            for suffix in ("crt", "key"):
                shutil.copy(a / f"{role}.{suffix}", b)

    def _start_agents(self) -> None:
        binary = consul_binary()
        for host, more in ((self.a, "server = true\nbootstrap_expect = 1\n"), (self.b, "")):
            for name in ("agent.hcl", "tls.hcl"):
                text = (RECIPE / name).read_text()
                text = text.replace("/etc/mlxmesh/tls", str(host.tls_dir))
                text = text.replace("/var/lib/consul", str(host.folder / "consul"))
                text = text.replace('["10.0.0.1", "10.0.0.2", "10.0.0.3"]', self._joined())
                (host.folder / name).write_text(text)
            (host.folder / "more.hcl").write_text(more)
            files = [f"-config-file={host.folder / n}.hcl" for n in ("agent", "tls", "more")]
            host.host.start(binary, "agent", *files, log=host.folder / "consul.log")

    def _joined(self) -> str:
        return json.dumps([self.a.host.address, self.b.host.address])

    def _make_tokens(self) -> None:
        root = self._bootstrap()
        for host in (self.a, self.b):
            identity = f"{host.host.name}:dc1"
            made = self.a.consul(
                *("acl", "token", "create", "-format=json", "-node-identity", identity), token=root
            )
            token = json.loads(made)["SecretID"]
            until(
                lambda host=host, token=token: (
                    host.try_consul("acl", "set-agent-token", "agent", token, token=root).returncode
                    == 0
                )
            )
        path = f"{Path(consul_binary()).parent}:{os.environ['PATH']}"
        folder = self.a.folder / "tokens"
        env = {**self.a.consul_env(root), "PATH": path}
        done = self.a.host.run(RECIPE / "make-tokens", folder, env=env)
        assert done.returncode == 0, done.stderr
        for file in folder.iterdir():
            name, _, token = file.read_text().strip().partition("=")
            assert name == "MLXMESH_CONSUL_TOKEN"
            self.tokens[file.stem] = token

    def _bootstrap(self) -> str:
        """The token that may do everything, once the server has a leader."""
        found: list[str] = []

        def bootstrapped() -> bool:
            done = self.a.try_consul("acl", "bootstrap", "-format=json")
            if done.returncode == 0:
                found.append(json.loads(done.stdout)["SecretID"])
            return bool(found)

        until(bootstrapped)
        return found[0]

    def _configure(self, host: MeshHost) -> None:
        anywhere = "[::]" if ":" in host.address else "0.0.0.0"
        lines = [
            "[mesh]",
            'registry = "consul"',
            f'tls_dir = "{host.tls_dir}"',
            f'advertise_host = "{host.address}"',
            "[consul]",
            'address = "127.0.0.1:8501"',
            # With the default of 2 s, a busy machine answers a check too late.
            "check_interval_s = 8",
            f'ca = "{host.tls_dir / "ca.crt"}"',
        ]
        for service in ("gateway", "generation", "model", "runtime", "engine"):
            port = GATEWAY_PORT if service == "gateway" else 0
            lines += [f"[{service}]", f'listen = "{anywhere}:{port}"']
        (host.data_dir / "mlxmesh.toml").write_text("\n".join(lines) + "\n")
