"""What an idle mesh costs: CPU time, and how often its processes wake.

    .venv/bin/python -m tests.bench.bench_idle [--rounds 3] [--seconds 20] [--json FILE]

One mesh with the directory registry and, where a Consul agent is found, one with Consul. Each has
one engine and telemetry on, serves one request, and is then left alone. A wake-up is a voluntary
context switch of any thread; macOS does not tell them. Apart from the mesh: Consul's own agent, and
one process that has a gRPC server and nothing else, which is the floor of each of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlxmesh_client import MeshClient
from tests.bench.idle_usage import COUNTS_WAKEUPS, Reading, Usage, read
from tests.bench.results import Findings, Result, Row, run_alone
from tests.bench.serving import MODEL, Mesh, bench_model, serving
from tests.fakes.consul_process import ConsulAgentProcess
from tests.fakes.tools import TOOLS

SETTLE_S = 20.0
"""After the start and one request: caches, spares and connections are made by then."""
MAX_CPU_PERCENT, MAX_WAKEUPS_PER_SECOND = 1.0, 20.0
DIRECTORY, CONSUL = "directory", "consul"
FLOOR = "bare gRPC server"


@dataclass(frozen=True)
class Watched:
    """The processes of a mesh by their role."""

    roles: dict[int, str]

    def processes(self) -> list[psutil.Process]:
        """Those that still run."""
        return [psutil.Process(pid) for pid in self.roles if psutil.pid_exists(pid)]


@dataclass(frozen=True)
class Window:
    """What each role used in one window of time."""

    seconds: float
    by_role: dict[str, Usage]

    def cpu_percent(self, *roles: str) -> float:
        """Of one core."""
        return 100 * sum(self.by_role[role].cpu_s for role in roles) / self.seconds

    def wakeups_per_second(self, *roles: str) -> float:
        """Of all threads."""
        return sum(self.by_role[role].total_wakeups for role in roles) / self.seconds


def watched(mesh: Mesh) -> Watched:
    """The launcher with all its descendants, found from the gateway, which is a child of it."""
    launcher = psutil.Process(mesh.pids["gateway"]).parent()
    assert launcher is not None, "the gateway's parent supervises it"
    roles = {launcher.pid: "launcher"}
    known = {pid: service for service, pid in mesh.pids.items()}
    for process in launcher.children(recursive=True):
        roles[process.pid] = known.get(process.pid) or role_of(process)
    return Watched(roles)


def role_of(process: psutil.Process) -> str:
    """A process that is no instance by the module that it runs."""
    # setproctitle makes one word of the line.
    words = " ".join(process.cmdline()).split()
    modules = [word for word in words if word.startswith("mlxmesh_")]
    name = modules[0] if modules else process.name()
    return name.removeprefix("mlxmesh_")


async def one_request(mesh: Mesh) -> None:
    """Makes the mesh as it is after use: with connections, a tokenizer and a compiled step."""
    async with MeshClient(mesh.address) as client:
        async for _ in client.generate(MODEL, prompt="What is 2 + 3?", max_tokens=4):
            pass


def windows(mesh: Mesh, extra: dict[int, str], rounds: int, seconds: float) -> list[Window]:
    """Several windows, after the mesh has settled."""
    asyncio.run(one_request(mesh))
    time.sleep(SETTLE_S)
    all_watched = Watched(watched(mesh).roles | extra)
    return [_window(all_watched, seconds) for _ in range(rounds)]


def _window(processes: Watched, seconds: float) -> Window:
    before = read(processes.processes())
    time.sleep(seconds)
    after = read(processes.processes())
    return Window(after.at_s - before.at_s, _by_role(processes, before, after))


def _by_role(processes: Watched, before: Reading, after: Reading) -> dict[str, Usage]:
    found: dict[str, Usage] = {}
    for pid, usage in after.by_pid.items():
        role = processes.roles[pid]
        used = usage.since(before.by_pid[pid])
        known = found.get(role, Usage(0.0))
        wakeups = Counter(known.wakeups) + Counter(used.wakeups)
        found[role] = Usage(known.cpu_s + used.cpu_s, wakeups)
    return found


@contextlib.contextmanager
def bare_grpc() -> Iterator[int]:
    """The process id of a gRPC server without services."""
    command = [sys.executable, "-m", "tests.bench.bare_grpc"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process.pid


@contextlib.contextmanager
def consul_agent() -> Iterator[tuple[str, int] | None]:
    """The address and process id of an agent in development mode; None without its program."""
    program = os.environ.get("CONSUL_BIN") or shutil.which(
        "consul", path=f"{TOOLS}:{os.environ['PATH']}"
    )
    if program is None:
        yield None
        return
    os.environ["CONSUL_BIN"] = program
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder, asyncio.Runner() as loop:
        agent = ConsulAgentProcess(Path(folder))
        loop.run(agent.start())
        try:
            [pid] = [
                each.pid
                for each in psutil.Process().children()
                if Path(program).name in each.name()
            ]
            yield agent.address, pid
        finally:
            loop.run(agent.stop())


def rows(registry: str, found: Sequence[Window], apart: str = "") -> list[Row]:
    """One row a process, one for all of the mesh, and one for what is reported apart."""
    roles = [role for role in found[0].by_role if role != apart]
    return [
        *(_row(registry, role, found, role) for role in roles),
        _row(registry, "all of the mesh", found, *roles),
        *([_row(registry, f"{apart} (apart)", found, apart)] if apart else []),
    ]


def _row(registry: str, name: str, found: Sequence[Window], *roles: str) -> Row:
    wakeups = statistics.median(each.wakeups_per_second(*roles) for each in found)
    return {
        "registry": registry,
        "process": name,
        "CPU %": statistics.median(each.cpu_percent(*roles) for each in found),
        "wake-ups/s": wakeups if COUNTS_WAKEUPS else "-",
    }


def thread_rows(registry: str, found: Sequence[Window], apart: str = "") -> list[Row]:
    """Which threads wake, the busiest first."""
    totals: Counter[tuple[str, str]] = Counter()
    for window in found:
        for role, usage in window.by_role.items():
            if role != apart:
                totals.update({(role, thread): n for thread, n in usage.wakeups.items()})
    seconds = sum(window.seconds for window in found)
    return [
        {"registry": registry, "process": role, "thread": thread, "wake-ups/s": count / seconds}
        for (role, thread), count in totals.most_common()
    ]


def verdicts(registry: str, found: Sequence[Window], apart: str = "") -> list[Result]:
    """The whole mesh against its two targets."""
    roles = [role for role in found[0].by_role if role != apart]
    cpu = statistics.median(each.cpu_percent(*roles) for each in found)
    wakeups = statistics.median(each.wakeups_per_second(*roles) for each in found)
    results = [Result(f"idle CPU, {registry}", cpu, MAX_CPU_PERCENT, "% of a core", at_least=False)]
    if COUNTS_WAKEUPS:
        wanted = MAX_WAKEUPS_PER_SECOND
        results.append(Result(f"idle wake-ups, {registry}", wakeups, wanted, "/s", at_least=False))
    return results


def measure(rounds: int, seconds: Sequence[float]) -> Findings:
    """All windows of both registries."""
    results: list[Result] = []
    by_process: list[Row] = []
    by_thread: list[Row] = []

    def add(registry: str, found: Sequence[Window], apart: str = "") -> None:
        results.extend(verdicts(registry, found, apart))
        by_process.extend(rows(registry, found, apart))
        by_thread.extend(thread_rows(registry, found, apart))

    with bench_model() as model:
        with serving(model) as mesh, bare_grpc() as pid:
            add(DIRECTORY, windows(mesh, {pid: FLOOR}, rounds, seconds[0]), FLOOR)
        with consul_agent() as agent:
            if agent is not None:
                address, pid = agent
                options = ("--registry", "consul", "--consul-address", address)
                with serving(model, *options) as mesh:
                    add(CONSUL, windows(mesh, {pid: "consul"}, rounds, seconds[0]), "consul")
    tables = {"idle, by process": by_process}
    if by_thread:
        tables["idle, by thread"] = by_thread
    return Findings(results, tables)


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=3, seconds=(20.0,))
