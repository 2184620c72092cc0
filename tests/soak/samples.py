"""What every process of a mesh uses, sampled into a file of JSON lines, and read back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from tests.bench.bench_idle import role_of

FIGURES = ("memory_bytes", "fds", "threads", "tasks")


@dataclass(frozen=True)
class ProcessSample:
    """One process at one moment."""

    role: str
    pid: int
    started_s: float
    memory_bytes: int
    """What only this process has, without pages that forks share."""
    fds: int
    threads: int
    tasks: int
    """Of its event loop; 0 where it does not say, as while it is frozen."""
    cpu_s: float


class Life(NamedTuple):
    """One process in one role: a process that is restarted begins a new one."""

    role: str
    pid: int
    started_s: float


def processes(roots: Iterable[int]) -> dict[int, psutil.Process]:
    """The processes of these ids with all their descendants, without those that have ended."""
    found: dict[int, psutil.Process] = {}
    for pid in roots:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for one in (root, *root.children(recursive=True)):
                if one.status() != psutil.STATUS_ZOMBIE:
                    found[one.pid] = one
    return found


def sample_of(process: psutil.Process, role: str, tasks: int) -> ProcessSample:
    """Raises: psutil.Error once it has ended."""
    times = process.cpu_times()
    return ProcessSample(
        role=role or role_of(process),
        pid=process.pid,
        started_s=process.create_time(),
        memory_bytes=process.memory_full_info().uss,
        fds=process.num_fds(),
        threads=process.num_threads(),
        tasks=tasks,
        cpu_s=times.user + times.system,
    )


class Sampler:
    """Appends one line per interval to a file, until cancelled."""

    def __init__(
        self,
        path: Path,
        roots: Callable[[], Iterable[int]],
        client: MeshClient,
        more: Callable[[], Mapping[str, Any]],
    ) -> None:
        """more: what else belongs into the next line, such as latencies and faults."""
        self._path = path
        self._roots = roots
        self._client = client
        self._more = more

    async def run(self, interval_s: float) -> None:
        started_s = time.monotonic()
        with self._path.open("w", encoding="utf-8") as lines:
            while True:
                line = await self._sample()
                line = {"at_s": time.monotonic() - started_s, "processes": line, **self._more()}
                lines.write(json.dumps(line) + "\n")
                lines.flush()
                await asyncio.sleep(interval_s)

    async def _sample(self) -> list[dict[str, Any]]:
        told = await self._told()
        return await asyncio.to_thread(self._read, told)

    async def _told(self) -> dict[int, tuple[str, int]]:
        """By pid: the service and the tasks of the processes that say so."""
        try:
            system = await self._client.live.system(timeout_s=5)
        except MeshError:
            return {}
        return {
            one.details.pid: (one.service, one.details.tasks)
            for one in system.processes
            if one.details.pid
        }

    def _read(self, told: Mapping[int, tuple[str, int]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for pid, process in processes(self._roots()).items():
            with contextlib.suppress(psutil.Error):
                found.append(asdict(sample_of(process, *told.get(pid, ("", 0)))))
        return found


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file; one that was cut off by the end of its writer is left out."""
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def lives(lines: Iterable[Mapping[str, Any]]) -> dict[Life, list[tuple[float, ProcessSample]]]:
    """The samples of each process by its role, in order of time."""
    roles: dict[tuple[int, float], str] = {}
    found: defaultdict[Life, list[tuple[float, ProcessSample]]] = defaultdict(list)
    for line in lines:
        for fields in line["processes"]:
            sample = ProcessSample(**fields)
            key = sample.pid, sample.started_s
            # Not told in this line, as while a gateway is restarted: the same as before.
            role = roles.get(key, sample.role) if not sample.tasks else sample.role
            roles[key] = role
            found[Life(role, *key)].append((float(line["at_s"]), sample))
    return dict(found)
