"""A Nomad agent in development mode, server and client in one, with mlxmesh's job."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.fakes.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "deploy" / "nomad"
JOB = "mlxmesh"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 120.0
_POLL_S = 0.5
# Sizes are what the job asks for, not what this machine has: raw_exec limits nothing. Cloud
# fingerprints would ask addresses outside this machine.
CONFIGURATION = """
disable_update_check = true
ports {{ {ports} }}
consul {{ address = "{consul}" }}
client {{
  max_kill_timeout  = "6m"
  cpu_total_compute = 40000
  memory_total_mb   = 100000
  meta {{
    mlxmesh_databases = "true"
    mlxmesh_gateway   = "true"
  }}
  options = {{
    "fingerprint.denylist" = "env_aws,env_azure,env_digitalocean,env_gce"
    "driver.denylist"      = "docker,exec,java,qemu"
  }}
}}
plugin "raw_exec" {{ config {{ enabled = true }} }}
"""


class NomadAgent:
    """Use while running() lasts."""

    def __init__(self, binary: str, folder: Path, consul: str) -> None:
        """Its files go to the folder; consul: host:port of an agent."""
        self.folder = folder
        self.data_dir = folder / "mesh"
        """Of the mesh."""
        self._binary = binary
        self.consul = consul
        self._ports = {name: free_port() for name in ("http", "rpc", "serf")}
        self.grpc_port, self.http_port = free_port(), free_port()
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the agent, and stops it at the end; processes of its job may be left."""
        configuration = self.folder / "agent.hcl"
        ports = "\n".join(f"{name} = {port}" for name, port in self._ports.items())
        configuration.write_text(CONFIGURATION.format(ports=ports, consul=self.consul))
        self.data_dir.mkdir()
        with (self.folder / "nomad.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(self._binary, "agent", "-dev", "-config", str(configuration)),
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self.folder)},
            )
        url = f"http://127.0.0.1:{self._ports['http']}"
        try:
            async with aiohttp.ClientSession(url) as self._session:
                async with asyncio.timeout(START_TIMEOUT_S):
                    while not await self._ready():
                        await asyncio.sleep(_POLL_S)
                yield
        finally:
            if process.returncode is None:
                process.terminate()
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()

    async def command(self, *words: str) -> str:
        """Runs `nomad` against the agent; returns its output."""
        process = await asyncio.create_subprocess_exec(
            *(self._binary, *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "NOMAD_ADDR": f"http://127.0.0.1:{self._ports['http']}"},
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"nomad {' '.join(words)}: {output.decode()}")
        return output.decode()

    def variables(self, **more: str) -> list[str]:
        """The job's variables for this machine, as options of `nomad job`."""
        variables = {
            "python": sys.executable,
            "user": getpass.getuser(),
            "data_dir": str(self.data_dir),
            "consul_address": self.consul,
            "tls": "false",
            "grpc_port": str(self.grpc_port),
            "http_port": str(self.http_port),
            "gateway_hand_over": str(sys.platform == "linux").lower(),
            **more,
        }
        return [f"-var={name}={value}" for name, value in variables.items()]

    async def get(self, path: str) -> Any:
        """What the agent's API answers."""
        assert self._session is not None
        async with self._session.get(f"/v1/{path}") as answer:
            answer.raise_for_status()
            return await answer.json()

    async def deployment(self, timeout_s: float) -> Mapping[str, Any]:
        """The deployment of the job's newest version, once it has ended."""
        version = (await self.get(f"job/{JOB}"))["Version"]
        async with asyncio.timeout(timeout_s):
            while True:
                found = await self.get(f"job/{JOB}/deployment")
                if found and found["JobVersion"] == version and found["Status"] != "running":
                    return found
                await asyncio.sleep(_POLL_S)

    async def allocations(self) -> list[dict[str, Any]]:
        """Those of the job that shall run."""
        found = await self.get(f"job/{JOB}/allocations")
        return [each for each in found if each["DesiredStatus"] == "run"]

    def processes(self) -> dict[int, str]:
        """The living processes of the mesh, with their modules: services and engines."""
        found: dict[int, str] = {}
        for process in psutil.process_iter():
            try:
                environment, words = process.environ(), process.cmdline()
                status = process.status()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            own = environment.get("MLXMESH_DATA_DIR") == str(self.data_dir)
            if own and status != psutil.STATUS_ZOMBIE and "-m" in words:
                found[process.pid] = words[words.index("-m") + 1].removeprefix("mlxmesh_")
        return found

    async def _ready(self) -> bool:
        try:
            nodes = await self.get("nodes")
        except aiohttp.ClientError:
            return False
        return any(node["Status"] == "ready" and "raw_exec" in node["Drivers"] for node in nodes)
