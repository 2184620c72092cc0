"""When each process of `mlxmesh up` serves, and the processor time of each until the first token.

    .venv/bin/python -m tests.bench.startup_path [--rounds 5] [--as-it-is]

Seconds after the spawn of the command, medians of the rounds; the first round, which fills the data
directory, is not counted. Polling the registry's directory costs a few per cent of a core.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import psutil

from tests.bench.bench_startup import TIMEOUT_S, bytecode, first_token

POLL_S = 0.005
COMMAND, SERVING, FIRST_TOKEN = "command", "serving on ...", "first token"

Seconds = dict[str, float]


async def one_start(data_dir: Path) -> tuple[Seconds, Seconds]:
    """When each event happened, and the processor time of each process."""
    start_s = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mlxmesh_cli", "up", "--grpc-port", "0"),
        *("--data-dir", str(data_dir)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    events: Seconds = {}
    watching = asyncio.create_task(_watch(data_dir / "registry", start_s, events))
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert process.stdout is not None, "spawned with a pipe"
            async for line in process.stdout:
                _, found, rest = line.decode().partition("serving on ")
                if found:
                    events[SERVING] = time.perf_counter() - start_s
                    await first_token(re.split("[,;]", rest)[0])
                    break
        events[FIRST_TOKEN] = time.perf_counter() - start_s
        return events, _cpu_s(process.pid)
    finally:
        watching.cancel()
        process.send_signal(signal.SIGINT)
        await process.wait()


async def _watch(registry: Path, start_s: float, events: Seconds) -> None:
    """Notes when each service, and the engine, has registered in this start."""
    before = set(registry.glob("*/*.json"))
    while True:
        for record in set(registry.glob("*/*.json")) - before:
            events.setdefault(f"{record.parent.name} registered", time.perf_counter() - start_s)
        await asyncio.sleep(POLL_S)


def _cpu_s(pid: int) -> Seconds:
    root = psutil.Process(pid)
    found: Seconds = {COMMAND: _own_s(root)}
    for child in root.children(recursive=True):
        module = re.search(r"mlxmesh_(\w+)", " ".join(child.cmdline()))
        name = module[1] if module else child.name()
        found[name] = found.get(name, 0.0) + _own_s(child)
    return found


def _own_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


async def measure(rounds: int, *, as_it_is: bool) -> None:
    """Prints two tables."""
    with (
        tempfile.TemporaryDirectory(prefix="mlxmesh-start-") as directory,
        nullcontext() if as_it_is else bytecode(Path(directory) / "bytecode"),
    ):
        await one_start(Path(directory))
        found = [await one_start(Path(directory)) for _ in range(rounds)]
    events, cpu_s = zip(*found, strict=True)
    _print("seconds after the start", events)
    in_all = _print("CPU seconds until the first token", cpu_s)
    print(f"  {in_all:6.2f}  in all")


def _print(title: str, tables: Sequence[Seconds]) -> float:
    """Prints the medians, and returns their sum."""
    names = {name for table in tables for name in table}
    medians = {name: median(table.get(name, 0.0) for table in tables) for name in names}
    print(f"\n{title}")
    for name, seconds in sorted(medians.items(), key=lambda item: item[1]):
        print(f"  {seconds:6.2f}  {name}")
    return sum(medians.values())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as-it-is", action="store_true", help="leave the environment alone")
    arguments = parser.parse_args()
    asyncio.run(measure(arguments.rounds, as_it_is=arguments.as_it_is))
