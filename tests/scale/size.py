"""One size of a mesh, from its start to a tenth of its engines lost, and the figures of it."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.bench.results import Row
from tests.fakes.consul_process import ConsulAgentProcess
from tests.scale.engine_host import NARROW_REPLICAS, WIDE, model_of
from tests.scale.worker import Worker

TIMEOUT_S = 300.0
"""Of each step; a mesh that does not converge by then is an error."""
LOST = 0.1
CHANGE_PAUSE_S = 1.0
PLACEMENTS, ROUTES = 100, 300
_MB = 1e6
MAX_CONNECTIONS = 10_000


@dataclass(frozen=True)
class Mesh:
    """How many of what, and how long each phase lasts."""

    engines: int
    generations: int
    gateways: int
    changes: int
    idle_s: float
    check_interval_s: float = 2.0
    """By default that of the settings."""

    @property
    def watchers(self) -> int:
        """All these instances watch the engines."""
        return self.generations + self.gateways


@dataclass(frozen=True)
class Reading:
    """What the watchers and Consul have used up to a moment."""

    at_s: float
    consul_cpu_s: float
    usage: Mapping[str, float]

    def per_s(self, before: Reading, figure: str) -> float:
        """How fast a figure of the watchers grew since an earlier reading."""
        return (self.usage[figure] - before.usage[figure]) / (self.at_s - before.at_s)

    def consul_percent(self, before: Reading) -> float:
        """Consul's share of one core since then."""
        return 100 * (self.consul_cpu_s - before.consul_cpu_s) / (self.at_s - before.at_s)


class Sized:
    """The processes of one mesh."""

    def __init__(self, mesh: Mesh, consul: psutil.Process, watchers: Sequence[Worker]) -> None:
        self._mesh = mesh
        self._consul = consul
        self._watchers = watchers
        self._linked = watchers[0]

    async def everywhere(self, command: str, **arguments: Any) -> list[Any]:
        """All processes with watchers at once."""
        return await asyncio.gather(*(one.ask(command, **arguments) for one in self._watchers))

    async def until_known(self, count: int) -> list[float]:
        """When each instance knew so many engines."""
        known = await self.everywhere("until_known", count=count, timeout_s=TIMEOUT_S)
        return [at_s for each in known for at_s in each]

    async def read(self) -> Reading:
        used = await self.everywhere("usage")
        times = self._consul.cpu_times()
        total = {name: sum(each[name] for each in used) for name in used[0]}
        return Reading(time.monotonic(), times.user + times.system, total)

    async def linked_bytes(self) -> float:
        """The memory of the process with the one generation instance that has connections."""
        return (await self._linked.ask("usage"))["memory_bytes"]

    async def all_connected(self) -> None:
        """Returns when that instance is connected to every engine."""
        numbers = list(range(self._mesh.engines))
        await self._linked.ask("until_connected", numbers=numbers, timeout_s=TIMEOUT_S)

    async def changed(self, host: Worker) -> Row:
        """One engine after the other says something new."""
        before = await self.read()
        for _ in range(self._mesh.changes):
            await host.ask("change")
            await asyncio.sleep(CHANGE_PAUSE_S)
        after = await self.read()
        shares = self._mesh.changes * self._mesh.watchers
        return {
            "answers/change": (after.usage["lists"] - before.usage["lists"]) / shares,
            "KB/change": (after.usage["list_bytes"] - before.usage["list_bytes"]) / shares / 1e3,
            "watcher ms/change": 1e3 * (after.usage["cpu_s"] - before.usage["cpu_s"]) / shares,
            "consul ms/change": 1e3
            * (after.consul_cpu_s - before.consul_cpu_s)
            / self._mesh.changes,
        }

    async def resting(self, name: str) -> Row:
        """Nothing changes for a while."""
        before = await self.read()
        await asyncio.sleep(self._mesh.idle_s)
        after = await self.read()
        instances = self._mesh.watchers
        return {
            f"consul % {name}": after.consul_percent(before),
            f"watcher % {name}": 100 * after.per_s(before, "cpu_s") / instances,
            f"watcher KB/s {name}": after.per_s(before, "list_bytes") / instances / 1e3,
        }

    async def picking(self) -> Row:
        """What one placement and one choice of a generation instance cost."""
        narrow = model_of(0)
        costs = {
            f"place us, {name}": 1e6
            * await self._linked.ask("place", model=model, count=PLACEMENTS)
            for name, model in (("half of all", WIDE), (f"{NARROW_REPLICAS} replicas", narrow))
        }
        return costs | {"route us": 1e6 * await self._watchers[1].ask("route", count=ROUTES)}

    async def losing(self, host: Worker, left: int) -> Row:
        """The host of a tenth of the engines is killed."""
        before, lost_s = await self.read(), time.monotonic()
        await host.kill()
        unlinked_s = await self._linked.ask(
            "until_connected", numbers=list(range(left)), timeout_s=TIMEOUT_S
        )
        known_s = await self.until_known(left)
        after = await self.read()
        return {
            "lost": self._mesh.engines - left,
            "links noticed s": unlinked_s - lost_s,
            "converged p50 s": statistics.median(known_s) - lost_s,
            "converged s": max(known_s) - lost_s,
            "answers to converge": (after.usage["lists"] - before.usage["lists"])
            / self._mesh.watchers,
            "MB to converge": (after.usage["list_bytes"] - before.usage["list_bytes"]) / _MB,
        }


@contextlib.asynccontextmanager
async def consul() -> AsyncIterator[tuple[str, psutil.Process]]:
    """A real agent of its own: its address and its process."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-scale-") as folder:
        # By default an agent accepts 200 connections of one host; here one host stands for many.
        open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        connections = min(MAX_CONNECTIONS, open_files // 2)
        agent = ConsulAgentProcess(
            Path(folder), f"limits {{ http_max_conns_per_client = {connections} }}"
        )
        try:
            await agent.start()
            yield agent.address, _process_of(agent)
        finally:
            await agent.stop()


async def measure(mesh: Mesh, address: str, agent: psutil.Process) -> Row:
    """The figures of one size, on a Consul agent that knows no instance yet."""
    left = mesh.engines - max(1, round(LOST * mesh.engines))
    async with contextlib.AsyncExitStack() as stack:
        common = {"consul": address, "check_interval_s": mesh.check_interval_s}
        half = mesh.generations // 2
        starting = [
            stack.enter_async_context(worker)
            for worker in (
                Worker("engine_host", first=0, count=left, **common),
                Worker("engine_host", first=left, count=mesh.engines - left, **common),
                Worker("mesh_host", first=0, generations=1, gateways=0, linked=True, **common),
                Worker("mesh_host", first=1, generations=half, gateways=mesh.gateways, **common),
                Worker(
                    "mesh_host",
                    first=1 + half,
                    generations=mesh.generations - 1 - half,
                    gateways=0,
                    **common,
                ),
            )
        ]
        staying, leaving, linked, others, more = await asyncio.gather(*starting)
        sized = Sized(mesh, agent, [linked, others, more])
        return await _phases(sized, mesh, staying, leaving, left)


async def _phases(sized: Sized, mesh: Mesh, staying: Worker, leaving: Worker, left: int) -> Row:
    await sized.everywhere("start")
    await sized.until_known(0)
    empty, started_s = await sized.read(), time.monotonic()
    linked_empty = await sized.linked_bytes()
    await asyncio.gather(staying.ask("register"), leaving.ask("register"))
    known_s = await sized.until_known(mesh.engines)
    await sized.all_connected()
    full = await sized.read()
    memory = (full.usage["memory_bytes"] - empty.usage["memory_bytes"]) / mesh.watchers
    row: Row = {
        "engines": mesh.engines,
        "all known s": max(known_s) - started_s,
        "MB/instance": memory / _MB,
        "KB/link": (await sized.linked_bytes() - linked_empty) / mesh.engines / 1e3,
    }
    row = {**row, **await sized.picking()}
    row = {**row, **await sized.resting("at rest")}
    row = {**row, **await sized.changed(staying)}
    row = {**row, **await sized.losing(leaving, left)}
    return {**row, **await sized.resting("after the loss")}


def _process_of(agent: ConsulAgentProcess) -> psutil.Process:
    listening = int(agent.address.rpartition(":")[2])
    for child in psutil.Process().children():
        if any(one.laddr.port == listening for one in child.net_connections() if one.laddr):
            return child
    raise RuntimeError("the Consul agent has ended")
