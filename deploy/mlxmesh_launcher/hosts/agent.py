"""The Consul agent of this host, where the mesh runs its own: its program, settings and process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlxmesh_launcher.certificate_directory import CONSUL
from mlxmesh_launcher.child import Child
from mlxmesh_launcher.hosts.state import DATACENTER, HostState, folder_of
from mlxmesh_launcher.readiness import spawn
from mlxmesh_shared.errors import IllegalState, RegistryUnavailable, ServiceUnavailable
from mlxmesh_shared.host.atomic_file import write_atomically
from mlxmesh_shared.host.cache_dir import NoCacheDir, default_cache_dir
from mlxmesh_shared.host.host_port import join_host_port
from mlxmesh_shared.host.log_file import LogFile
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.shared_port import is_free

HTTPS_PORT = 8501
SERVER_PORT = 8300
GOSSIP_PORT = 8301
SERVER_NAME = f"server.{DATACENTER}.consul"
"""By this name in its certificate, agents know a Consul server."""
READY_TIMEOUT_S = 120.0
STOP_GRACE_S = 30.0
_POLL_S = 0.3
_VERSION_TIMEOUT_S = 30.0


def find_consul(given: Path | None) -> str:
    """The path of a Consul program that runs: as given, of CONSUL_BIN, in PATH, or as `make consul`
    leaves it.

    Raises: IllegalState.
    """
    found = str(given) if given is not None else _installed()
    if found is None:
        raise IllegalState(
            "there is no Consul program on this host, which finds the services of other hosts:"
            " install Consul 1.12 or newer, or build it with `make consul` in a checkout; name it"
            " with --consul PATH if it is not in PATH; or use an agent that runs here already, with"
            " --consul-address HOST:PORT"
        )
    try:
        done = subprocess.run(
            [found, "version"], capture_output=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise IllegalState(f"{found} cannot be run: {error}; name another with --consul") from None
    if done.returncode != 0 or not done.stdout.startswith(b"Consul v"):
        raise IllegalState(f"{found} is not Consul; name its program with --consul PATH")
    return str(Path(found).absolute())


def _installed() -> str | None:
    if named := os.environ.get("CONSUL_BIN") or shutil.which("consul"):
        return named
    with contextlib.suppress(NoCacheDir):
        built = default_cache_dir() / "tools" / "consul"
        return str(built) if built.exists() else None
    return None


def check_ports(state: HostState, is_free: Callable[[str], bool] = is_free) -> None:
    """Raises: IllegalState naming the ports of the agent that are taken."""
    ports = (GOSSIP_PORT, SERVER_PORT) if state.is_first else (GOSSIP_PORT,)
    wanted = [f"127.0.0.1:{HTTPS_PORT}"]
    wanted += [join_host_port(state.address, port) for port in ports]
    if taken := [each for each in wanted if not is_free(each)]:
        raise IllegalState(
            f"the Consul agent of this host cannot listen on {' and '.join(taken)}: taken, or not"
            " an address of this host; stop what uses it, or use an agent that runs here already"
            " with --consul-address, or choose this host's address with --advertise"
        )


def agent_settings(state: HostState, folder: Path, tls_dir: Path) -> dict[str, Any]:
    """The agent's settings, as in deploy/consul: TLS and no scripts.

    Access control is by certificates: whoever has one of this mesh may use the agent of its host.
    """
    server = {"server": True, "bootstrap_expect": 1} if state.is_first else {"server": False}
    return {
        **server,
        "data_dir": str(agent_data_dir(folder)),
        "datacenter": DATACENTER,
        "node_name": state.name,
        "bind_addr": state.address,
        "client_addr": "127.0.0.1",
        "retry_join": list(state.consul_servers),
        "retry_interval": "5s",
        "encrypt": state.gossip_key,
        "disable_update_check": True,
        "enable_script_checks": False,
        "enable_local_script_checks": False,
        "enable_agent_tls_for_checks": True,
        "limits": {"http_max_conns_per_client": 500},
        "ports": {"dns": -1, "grpc": -1, "http": -1, "https": HTTPS_PORT, "serf_wan": -1},
        "tls": {
            "defaults": {
                "ca_file": str(tls_dir / "ca.crt"),
                "cert_file": str(tls_dir / f"{CONSUL}.crt"),
                "key_file": str(tls_dir / f"{CONSUL}.key"),
                "verify_outgoing": True,
            },
            "https": {"verify_incoming": True},
            "internal_rpc": {"verify_incoming": True, "verify_server_hostname": True},
        },
    }


def agent_data_dir(folder: Path) -> Path:
    """Where the agent keeps what it knows."""
    return folder / "consul"


class AgentProcess:
    """The agent as a child of the launcher."""

    def __init__(self, state: HostState, data_dir: Path, tls_dir: Path, log: LogFile) -> None:
        self._state = state
        self._folder = folder_of(data_dir)
        self._tls_dir = tls_dir
        self._child = Child(name=CONSUL, command=self._command, log=log)

    async def start(self, registry: Registry, report: Callable[[str], None]) -> None:
        """Returns once the agent answers queries. Raises: IllegalState, ServiceUnavailable."""
        check_ports(self._state)
        self._write_settings()
        report("starting the Consul agent")
        await spawn(self._child)
        await self._until_ready(registry, report)
        self._child.keep_running()

    async def stop(self) -> None:
        """An agent that is no server tells the others that its host leaves."""
        await self._child.stop(STOP_GRACE_S)

    def reload(self) -> None:
        """Has the agent read its certificates again. Thread-safe."""
        if (pid := self._child.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    def _write_settings(self) -> None:
        settings = agent_settings(self._state, self._folder, self._tls_dir)
        content = json.dumps(settings, indent=1).encode()
        try:
            write_atomically(self._folder / "consul.json", content, mode=0o600)
        except OSError as error:
            raise IllegalState(f"cannot write {error.filename}: {error.strerror}") from None

    def _command(self) -> Sequence[str]:
        keeper = (sys.executable, "-m", "mlxmesh_launcher.hosts.agent_process")
        return (*keeper, self._state.consul, "agent", f"-config-file={self._folder}/consul.json")

    async def _until_ready(self, registry: Registry, report: Callable[[str], None]) -> None:
        ended = asyncio.create_task(self._child.ended())
        ready = asyncio.create_task(until_registry_answers(registry, report, self._missing()))
        try:
            done, _ = await asyncio.wait((ready, ended), return_when=asyncio.FIRST_COMPLETED)
            await next(iter(done))
        finally:
            for task in (ready, ended):
                task.cancel()
            await asyncio.gather(ready, ended, return_exceptions=True)

    def _missing(self) -> str:
        """What to check if the agent does not become ready."""
        log = f"its log has more: {self._child.log.path}"
        if self._state.is_first:
            return f"the Consul agent of this host has no leader; {log}"
        servers = " and ".join(self._state.consul_servers)
        return (
            "the Consul agent of this host does not reach that of"
            f" {self._state.first_host}: the mesh must run there, and ports {SERVER_PORT} (TCP) and"
            f" {GOSSIP_PORT} (TCP and UDP) of {servers} must be open to this host; {log}"
        )


async def until_registry_answers(
    registry: Registry, report: Callable[[str], None], missing: str
) -> None:
    """Waits for the first answer. Raises: ServiceUnavailable with `missing` after two minutes."""
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            await registry.resolve("gateway")
        except RegistryUnavailable as error:
            if time.monotonic() > deadline_s:
                raise ServiceUnavailable(missing) from None
            report(f"waiting for Consul: {error.message}")
        else:
            return
        await asyncio.sleep(_POLL_S)
