"""`mlxmesh up` to its first token, beside a bare Python process that uses mlx-lm; and `--help`.

    .venv/bin/python -m tests.bench.bench_startup [--rounds 5] [--json FILE]

The three take turns. Wall-clock time is what a user waits; processor time is what it costs, and on
few or busy cores it is what the wall-clock time comes from.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from mlxmesh_client import MeshClient
from mlxmesh_launcher.models import DEFAULT_MODEL, bundled_models

PROMPT = "What is 2 + 3?"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Start:
    """One start, from its spawn to its first token (or, of a command, to its end)."""

    wall_s: float
    cpu_s: float


def bare(model: Path) -> Start:
    """mlx-lm in a process of its own."""
    return _run_to_end("-m", "tests.bench.bare_start", str(model), PROMPT)


def help_command() -> Start:
    """`mlxmesh --help`."""
    return _run_to_end("-m", "mlxmesh_cli", "--help")


def _run_to_end(*arguments: str) -> Start:
    before = os.times()
    start_s = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    wall_s = time.perf_counter() - start_s
    after = os.times()
    cpu_s = after.children_user + after.children_system
    return Start(wall_s, cpu_s - before.children_user - before.children_system)


async def mesh(data_dir: Path) -> Start:
    """The whole mesh in the foreground, which loads what it served before, and one streamed call.

    Its processor time is that of all its processes while they still run.
    """
    start_s = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mlxmesh_cli", "up", "--grpc-port", "0"),
        *("--data-dir", str(data_dir)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await _first_token(await _address(process))
        return Start(time.perf_counter() - start_s, _cpu_s(process.pid))
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None, "spawned with a pipe"
    async for line in process.stdout:
        _, found, rest = line.decode().partition("serving on ")
        if found:
            return rest.split(";")[0]
    raise SystemExit("the mesh ended before it served; see `mlxmesh logs`")


async def _first_token(address: str) -> None:
    async with MeshClient(address) as client:
        async for event in client.generate(DEFAULT_MODEL, prompt=PROMPT, max_tokens=1):
            if event.token_ids:
                return


def _cpu_s(pid: int) -> float:
    root = psutil.Process(pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


async def run(rounds: int) -> dict[str, list[Start]]:
    """All starts by what was started; a first start of the mesh, not counted, fills its data."""
    found: dict[str, list[Start]] = {"bare process": [], "mlxmesh up": [], "mlxmesh --help": []}
    with tempfile.TemporaryDirectory(prefix="mlxmesh-start-") as directory:
        await mesh(Path(directory))
        for _ in range(rounds):
            found["bare process"].append(bare(_model()))
            found["mlxmesh up"].append(await mesh(Path(directory)))
            found["mlxmesh --help"].append(help_command())
    return found


def _model() -> Path:
    directory = bundled_models()[DEFAULT_MODEL].directory
    assert directory is not None, "the bundled model is a directory"
    return directory


def print_table(found: dict[str, list[Start]]) -> None:
    """Medians, and ratios to the bare process taken round by round."""
    table = Table("start", "wall s", "cpu s", "wall / bare", "cpu / bare", box=None)
    reference = found["bare process"]
    for name, starts in found.items():
        walls = _median([a.wall_s / b.wall_s for a, b in zip(starts, reference, strict=True)])
        cpus = _median([a.cpu_s / b.cpu_s for a, b in zip(starts, reference, strict=True)])
        wall_s = _median([start.wall_s for start in starts])
        cpu_s = _median([start.cpu_s for start in starts])
        table.add_row(name, f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{walls:.2f}", f"{cpus:.2f}")
    console = Console()
    console.print(f"{psutil.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    console.print(table)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="starts of each kind")
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    found = asyncio.run(run(args.rounds))
    print_table(found)
    if args.json:
        results = {name: [asdict(start) for start in starts] for name, starts in found.items()}
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
