"""Real Consul agents, `$CONSUL_BIN agent`: what the fake agent stands for."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mlxmesh_shared.errors import RegistryUnavailable
from tests.fakes.ports import free_port

START_TIMEOUT_S = 60.0
# May do everything where DENY denies the rest.
ROOT_TOKEN = "11111111-2222-3333-4444-555555555555"
DENY = f"""acl {{
  enabled = true
  default_policy = "deny"
  tokens {{ initial_management = "{ROOT_TOKEN}", agent = "{ROOT_TOKEN}" }}
}}"""


def if_built(parameter: str) -> list[Any]:
    """The parameter of tests with a real agent, which are marked `tools`; none without an agent."""
    is_there = "CONSUL_BIN" in os.environ
    return [pytest.param(parameter, marks=pytest.mark.tools)] if is_there else []


class ConsulAgentProcess:
    """Start, use `address`, stop; in development mode a restart forgets everything."""

    def __init__(self, path: Path, hcl: str = "", mode: Sequence[str] = ("-dev",)) -> None:
        """`hcl` is more of its configuration, such as DENY; its log goes to the path."""
        self._hcl = hcl
        self._mode = mode
        self._log = path / "consul.log"
        self._ports = {name: free_port() for name in ("http", "server", "serf_lan", "serf_wan")}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['http']}"

    @property
    def server_address(self) -> str:
        """How other servers name it."""
        return f"127.0.0.1:{self._ports['server']}"

    @property
    def gossip_address(self) -> str:
        """Where others join it."""
        return f"127.0.0.1:{self._ports['serf_lan']}"

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        await self.launch()
        await self.until_led()

    async def launch(self) -> None:
        """Returns before it has a leader."""
        ports = " ".join(f"{name} = {port}" for name, port in self._ports.items())
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                os.environ["CONSUL_BIN"],
                *("agent", *self._mode, "-bind", "127.0.0.1"),
                *("-hcl", f"ports {{ {ports} dns = -1 grpc = -1 }}", "-hcl", self._hcl),
                stdout=log,
                stderr=log,
            )

    async def until_led(self) -> None:
        """Waits until it answers, and so knows of a leader."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await self._has_leader():
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Killed, not asked: it withdraws nothing."""
        if self._process is not None and self.runs:
            self._process.kill()
            await self._process.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def leader(self) -> str:
        """The server address of the leader, as this one knows it; empty while there is none."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{self.address}/v1/status/leader") as answer,
            ):
                return str(await answer.json()) if answer.status == 200 else ""
        except aiohttp.ClientError:
            return ""

    async def _has_leader(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise RegistryUnavailable(f"the agent ended: {self._log.read_text()[-2000:]}")
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(
                    f"http://{self.address}/v1/catalog/services",
                    headers={"X-Consul-Token": ROOT_TOKEN},
                ) as answer,
            ):
                return answer.status == 200 and "consul" in await answer.json()
        except aiohttp.ClientError:
            return False


class ConsulCluster:
    """Three servers that elect one of them to lead; what one knows stays when another dies."""

    def __init__(self, path: Path) -> None:
        """Each keeps its data and its log in a folder of the path."""
        self.servers: list[ConsulAgentProcess] = []
        for number in range(3):
            folder = path / f"server-{number}"
            folder.mkdir(parents=True)
            joined = [f"-retry-join={other.gossip_address}" for other in self.servers]
            self.servers.append(
                ConsulAgentProcess(
                    folder,
                    "performance { raft_multiplier = 1 }",
                    (
                        *("-server", "-bootstrap-expect=3", f"-node=server-{number}"),
                        *(f"-data-dir={folder}", "-retry-interval=1s", *joined),
                    ),
                )
            )

    async def start(self) -> None:
        for server in self.servers:
            await server.launch()
        for server in self.servers:
            await server.until_led()

    async def stop(self) -> None:
        for server in self.servers:
            await server.stop()

    async def leading(self) -> ConsulAgentProcess:
        """The one that leads, once those that run agree on one that runs."""
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                running = [server for server in self.servers if server.runs]
                named = {await server.leader() for server in running}
                for server in running:
                    if named == {server.server_address}:
                        return server
                await asyncio.sleep(0.1)

    async def following(self) -> list[ConsulAgentProcess]:
        """Those that run and do not lead."""
        leading = await self.leading()
        return [server for server in self.servers if server.runs and server is not leading]
