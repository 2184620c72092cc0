"""A real Consul agent, `$CONSUL_BIN agent -dev`: what the fake agent stands for."""

import asyncio
import os
import socket
from pathlib import Path

import aiohttp

from mlxmesh_shared.errors import RegistryUnavailable

START_TIMEOUT_S = 30.0
# May do everything where DENY denies the rest.
ROOT_TOKEN = "11111111-2222-3333-4444-555555555555"
DENY = f"""acl {{
  enabled = true
  default_policy = "deny"
  tokens {{ initial_management = "{ROOT_TOKEN}", agent = "{ROOT_TOKEN}" }}
}}"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


class ConsulAgentProcess:
    """Start, use `address`, stop; in development mode a restart forgets everything."""

    def __init__(self, path: Path, hcl: str = "") -> None:
        """`hcl` is more of its configuration, such as DENY; its log goes to the path."""
        self._hcl = hcl
        self._log = path / "consul.log"
        self._ports = {name: free_port() for name in ("http", "server", "serf_lan", "serf_wan")}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._ports['http']}"

    async def start(self) -> None:
        ports = " ".join(f"{name} = {port}" for name, port in self._ports.items())
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                os.environ["CONSUL_BIN"],
                *("agent", "-dev", "-bind", "127.0.0.1"),
                *("-hcl", f"ports {{ {ports} dns = -1 grpc = -1 }}", "-hcl", self._hcl),
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_TIMEOUT_S):
            while not await self._has_leader():
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Killed, not asked: it withdraws nothing."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

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
