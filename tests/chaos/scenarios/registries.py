"""The registry goes away, forgets, or says that nobody is there: what runs goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from tests.bench.results import Findings, Row
from tests.chaos.checker import by_request, check
from tests.chaos.clients import Crowd, mixed_requests
from tests.chaos.figures import at_most, promises
from tests.chaos.load import SteadyLoad
from tests.chaos.mesh import SIMULATED, ChaosMesh, Shape, running
from tests.chaos.scenario import Run, Scenario
from tests.fakes.consul_agent import FakeConsulAgent
from tests.fakes.consul_process import ConsulAgentProcess, ConsulCluster

STREAMS, TOKENS = 8, 40
OUTAGE_S = 12.0
"""Longer than a lease, a health check and the wait between two tries."""
LONG_OUTAGE_S = 60.0
"""As long as fits beside all other scenarios."""
SETTLE_S = 2.0
BACK_WITHIN_S = 5.0
Fault = tuple[str, Callable[[], Awaitable[None]]]
"""What goes wrong, and the doing of it, from the beginning to its end."""


async def spoil_registry(run: Run, mesh: ChaosMesh, faults: Sequence[Fault]) -> Findings:
    """Each fault in turns under a steady load."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    async with Crowd([mesh.address]) as crowd:
        crowd.start(requests, "reference")
        run.keep("reference", await crowd.finish())
    rows: list[Row] = []
    async with SteadyLoad(mesh.address, requests, streams=STREAMS) as load:
        for number in run.rounds():
            rows.append(await _spoilt(mesh, load, faults[number % len(faults)]))
            run.report(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
    run.keep("history", load.calls)
    violations = check(run.kept("history"), by_request(run.kept("reference")))
    slowest_s = max(float(row["back after s"]) for row in rows)
    return Findings(
        [
            at_most("calls failed", load.failed, 0),
            *promises(violations),
            at_most("all instances rediscovered after", slowest_s, BACK_WITHIN_S, "s"),
        ],
        {"by fault": rows, "ends": load.rows()},
    )


async def _spoilt(mesh: ChaosMesh, load: SteadyLoad, fault: Fault) -> Row:
    label, spoil = fault
    before, failed = load.total, load.failed
    await spoil()
    back_s = await mesh.until_registered()
    await asyncio.sleep(SETTLE_S)
    return {
        "fault": label,
        "rounds": 1,
        "calls": load.total - before,
        "failed": load.failed - failed,
        "back after s": round(back_s, 2),
    }


class BrokenDirectory:
    """What may become of the directory of the embedded registry."""

    def __init__(self, mesh: ChaosMesh) -> None:
        self._directory = mesh.data_dir / "registry"
        self._aside = mesh.data_dir / "registry-aside"

    @property
    def faults(self) -> tuple[Fault, ...]:
        return (
            (f"unreadable for {OUTAGE_S:.0f} s", self.unreadable),
            ("every record deleted", self.emptied),
            ("the directory deleted", self.deleted),
        )

    async def unreadable(self) -> None:
        """A file stands where the directory was: even for root it can be neither read nor made."""
        self._directory.rename(self._aside)
        self._directory.write_text("not a directory")
        await asyncio.sleep(OUTAGE_S)
        self._directory.unlink()
        self._aside.rename(self._directory)

    async def emptied(self) -> None:
        for record in self._directory.glob("*/*.json"):
            record.unlink(missing_ok=True)

    async def deleted(self) -> None:
        self._directory.rename(self._aside)
        shutil.rmtree(self._aside)


async def directory(run: Run) -> Findings:
    """The embedded registry."""
    async with running(Shape(generations=2)) as mesh:
        return await spoil_registry(run, mesh, BrokenDirectory(mesh).faults)


def _shape(agent_address: str) -> Shape:
    consul = {"MLXMESH_REGISTRY": "consul", "MLXMESH_CONSUL_ADDRESS": agent_address}
    return Shape(generations=2, environment=SIMULATED | consul)


async def consul(run: Run) -> Findings:
    """An agent of our own that can go wrong in every way."""
    agent = FakeConsulAgent()
    await agent.start()

    async def down() -> None:
        await agent.stop()
        await asyncio.sleep(OUTAGE_S)
        await agent.start()

    async def answering(**faults: int | bool) -> None:
        for name, value in faults.items():
            setattr(agent.faults, name, value)
        await asyncio.sleep(OUTAGE_S)
        for name, value in faults.items():
            setattr(agent.faults, name, type(value)())

    try:
        async with running(_shape(agent.address)) as mesh:
            faults: tuple[Fault, ...] = (
                (f"down for {OUTAGE_S:.0f} s", down),
                ("restarted, everything forgotten", agent.restart),
                ("index gone backwards", agent.rewind),
                ("health queries answered empty", lambda: answering(empty_health=True)),
                ("everything answered 500", lambda: answering(status=500)),
                ("no answers at all", lambda: answering(silent=True)),
            )
            return await spoil_registry(run, mesh, faults)
    finally:
        await agent.stop()


async def real_consul(run: Run) -> Findings:
    """The agent at CONSUL_BIN."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-chaos-") as folder:
        agent = ConsulAgentProcess(Path(folder))
        await agent.start()

        async def down() -> None:
            await agent.stop()
            await asyncio.sleep(LONG_OUTAGE_S)
            await agent.start()

        try:
            async with running(_shape(agent.address)) as mesh:
                faults: tuple[Fault, ...] = (
                    (f"killed, back empty after {LONG_OUTAGE_S:.0f} s", down),
                    ("killed and started at once", agent.restart),
                )
                return await spoil_registry(run, mesh, faults)
        finally:
            await agent.stop()


async def cluster(run: Run) -> Findings:
    """Three servers; the mesh asks one of those that follow."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-chaos-") as folder:
        servers = ConsulCluster(Path(folder))
        await servers.start()
        ours, _ = await servers.following()

        async def leader_killed() -> None:
            leader = await servers.leading()
            await leader.stop()
            await servers.leading()
            await leader.start()

        async def without_leader() -> None:
            others = [server for server in servers.servers if server is not ours]
            for server in others:
                await server.stop()
            await asyncio.sleep(OUTAGE_S)
            for server in others:
                await server.launch()
            await servers.leading()

        try:
            async with running(_shape(ours.address)) as mesh:
                faults: tuple[Fault, ...] = (
                    ("leader killed, and back", leader_killed),
                    (f"no leader for {OUTAGE_S:.0f} s", without_leader),
                )
                return await spoil_registry(run, mesh, faults)
        finally:
            await servers.stop()


_OF_REAL_CONSUL = (
    Scenario("registry-real-consul", "a real Consul agent killed", 2, 80, real_consul),
    Scenario("registry-cluster", "three Consul servers lose their leader", 2, 60, cluster),
)
SCENARIOS = (
    Scenario("registry-directory", "the registry's directory damaged", 3, 90, directory),
    Scenario("registry-consul", "a faulty Consul agent", 6, 120, consul),
    *(_OF_REAL_CONSUL if "CONSUL_BIN" in os.environ else ()),
)
