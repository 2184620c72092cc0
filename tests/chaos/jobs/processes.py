"""Jobs services, workers and a simulated back end as real processes, to be killed or paused."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlxmesh_shared.process.startup import child_environment
from mlxmesh_shared.registry import Instance, open_registry
from mlxmesh_shared.settings import MeshSettings, load_settings
from tests.fakes.postgres import FAST, postgres_server

START_TIMEOUT_S = 90.0
_POLL_S = 0.02
SIMULATION = "simulation"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many processes, and how they are set."""

    jobs: int = 2
    workers: int = 8
    lease_s: float = 10
    database_url: str = ""
    """Empty for a SQLite file in the data directory."""
    connectors: Sequence[str] = ("simulation_http", "simulation_websocket")
    """What workers run at the simulated back end."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    jobs_module: str = "mlxmesh_jobs"
    """What runs a jobs service."""

    def environment_of(self, back_end: str) -> dict[str, str]:
        """Of all services, with the address of the back end."""
        back_ends = ",".join(f"{name}={back_end}" for name in self.connectors)
        return {
            **child_environment(),
            "MLXMESH_TELEMETRY": "false",
            "MLXMESH_JOBS_LEASE_S": str(self.lease_s),
            "MLXMESH_WORKER_BACK_ENDS": back_ends,
            "MLXMESH_WORKER_PROBE_INTERVAL_S": "1",
            **({"MLXMESH_JOBS_DATABASE_URL": self.database_url} if self.database_url else {}),
            **self.environment,
        }


class ProcessEndedError(Exception):
    """A process ended before it served."""


class JobsMesh:
    """The processes of one data directory, by name: jobs-0, worker-3, simulation."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.data_dir = folder / "data"
        self.record = folder / "record.jsonl"
        """Of the simulated back end."""
        self.shape = shape
        self._logs = folder / "logs"
        self._processes: dict[str, Process] = {}
        self._back_end = ""
        settings = load_settings(MeshSettings, ["--data-dir", str(self.data_dir)], env={})
        self._registry = open_registry(settings)

    @property
    def jobs(self) -> Sequence[str]:
        """The names of the jobs services."""
        return [f"jobs-{number}" for number in range(self.shape.jobs)]

    @property
    def workers(self) -> Sequence[str]:
        """The names of the workers."""
        return [f"worker-{number}" for number in range(self.shape.workers)]

    async def start(self) -> None:
        """Returns when every process serves."""
        self._logs.mkdir(parents=True, exist_ok=True)
        await self.start_one(SIMULATION)
        # One alone makes the tables.
        first, *others = self.jobs
        await self.start_one(first)
        await asyncio.gather(*map(self.start_one, [*others, *self.workers]))

    async def start_one(self, name: str) -> None:
        """Starts a process that does not run; returns when it serves."""
        if name == SIMULATION:
            await self._start_simulation()
            return
        service = name.partition("-")[0]
        module = self.shape.jobs_module if service == "jobs" else f"mlxmesh_{service}"
        await self._spawn(name, module, "--data-dir", str(self.data_dir), "--listen", "127.0.0.1:0")
        await self.instance(name)

    async def instance(self, name: str) -> Instance:
        """The process as the registry lists it; waits until it does."""
        process = self._processes[name]
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                for instance in await self._registry.resolve(name.partition("-")[0]):
                    if instance.pid == process.pid:
                        return instance
                if process.returncode is not None:
                    raise ProcessEndedError(
                        f"{name} ended with {process.returncode}: {self.log(name)}"
                    )
                await asyncio.sleep(_POLL_S)

    async def addresses(self) -> Sequence[str]:
        """Of the jobs services that the registry lists."""
        return [each.address for each in await self._registry.resolve("jobs")]

    def pid(self, name: str) -> int:
        """Of the process."""
        return self._processes[name].pid

    def runs(self, name: str) -> bool:
        """Whether the process has not ended."""
        return self._processes[name].returncode is None

    async def kill(self, name: str) -> None:
        """Ends a process as a crash does."""
        process = self._processes[name]
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def terminate(self, name: str) -> None:
        """Asks a process to stop, and waits until it has."""
        process = self._processes[name]
        process.terminate()
        await process.wait()

    def pause(self, name: str) -> None:
        """Stops a process where it stands; its connections stay open."""
        os.kill(self.pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Lets it go on."""
        os.kill(self.pid(name), signal.SIGCONT)

    def log(self, name: str) -> str:
        """The end of what it has logged."""
        return (self._logs / f"{name}.log").read_text(errors="replace")[-3000:]

    async def stop(self) -> None:
        """Kills every process."""
        await self._registry.close()
        for name in self._processes:
            if self.runs(name):
                await self.kill(name)

    async def _start_simulation(self) -> None:
        port = self._back_end.rpartition(":")[2] or "0"
        words = ("--port", port, "--record", str(self.record))
        process = await self._spawn(SIMULATION, "tests.fakes.simulation_server", *words, out=PIPE)
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            self._back_end = (await process.stdout.readline()).decode().strip()
        if not self._back_end:
            raise ProcessEndedError(f"the back end does not start: {self.log(SIMULATION)}")

    async def _spawn(self, name: str, module: str, *words: str, out: int = DEVNULL) -> Process:
        environment = self.shape.environment_of(self._back_end)
        environment["CHAOS_PROCESS"] = name
        with (self._logs / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *words, env=environment,
                stdin=PIPE, stdout=log if out is DEVNULL else out, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._processes[name] = process
        return process


@contextlib.asynccontextmanager
async def running(shape: Shape, folder: Path | None = None) -> AsyncGenerator[JobsMesh]:
    """The processes in a directory, by default one of their own; they end with the body."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-chaos-") as own:
        mesh = JobsMesh(folder or Path(own), shape)
        try:
            await mesh.start()
            yield mesh
        finally:
            await mesh.stop()


@contextlib.contextmanager
def database(kind: str, settings: Sequence[str] = FAST) -> Generator[str]:
    """The URL of a new database: empty for `sqlite`, which is a file of the data directory.

    settings: of a PostgreSQL server; it survives everything here but its own crash by default.
    """
    if kind == "sqlite":
        yield ""
        return
    with postgres_server(settings) as server:
        yield str(server.create_database())
