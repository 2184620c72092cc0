"""`mlxmesh up` to its first token, beside a bare Python process that uses mlx-lm; and `--help`.

    .venv/bin/python -m tests.bench.bench_startup [--rounds 5] [--json FILE]

The three take turns, with bytecode as installed packages have it, and in the environment as it is:
where PYTHONDONTWRITEBYTECODE is set, every start compiles every module. Wall-clock time is what a
user waits; processor time is what it costs, and on few or busy cores it is what the wall-clock time
comes from.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psutil

from mlxmesh_client import MeshClient
from mlxmesh_launcher.options import DEFAULT_MODEL, bundled_models
from tests.bench.results import Findings, Result, Row, median_of, median_ratio, run_alone

PROMPT = "What is 2 + 3?"
TIMEOUT_S = 120.0
BARE, MESH, HELP = "bare process", "mlxmesh up", "mlxmesh --help"


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
            await first_token(await _address(process))
        return Start(time.perf_counter() - start_s, _cpu_s(process.pid))
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None, "spawned with a pipe"
    async for line in process.stdout:
        _, found, rest = line.decode().partition("serving on ")
        if found:
            return re.split("[,;]", rest)[0]
    raise SystemExit("the mesh ended before it served; see `mlxmesh logs`")


async def first_token(address: str) -> None:
    """One streamed call, until its first token."""
    async with MeshClient(address) as client:
        async for event in client.generate(DEFAULT_MODEL, prompt=PROMPT, max_tokens=1):
            if event.token_ids:
                return


def _cpu_s(pid: int) -> float:
    root = psutil.Process(pid)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


@contextmanager
def bytecode(directory: Path) -> Generator[None]:
    """Lets the processes that the body starts compile a module once, into a directory."""
    before = dict(os.environ)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


async def by_turns(rounds: int, *, compiled: bool) -> dict[str, list[Start]]:
    """All starts by what was started.

    A first start of each, which is not counted, fills the mesh's data directory and compiles.
    """
    found: dict[str, list[Start]] = {BARE: [], MESH: [], HELP: []}
    with (
        tempfile.TemporaryDirectory(prefix="mlxmesh-start-") as directory,
        bytecode(Path(directory) / "bytecode") if compiled else nullcontext(),
    ):
        bare(_model())
        help_command()
        await mesh(Path(directory))
        for _ in range(rounds):
            found[BARE].append(bare(_model()))
            found[MESH].append(await mesh(Path(directory)))
            found[HELP].append(help_command())
    return found


def _model() -> Path:
    directory = bundled_models()[DEFAULT_MODEL].directory
    assert directory is not None, "the bundled model is a directory"
    return directory


def row(name: str, starts: list[Start], reference: list[Start]) -> Row:
    """Medians, and ratios to the bare process taken round by round."""
    return {
        "start": name,
        "wall s": median_of(starts, lambda start: start.wall_s),
        "cpu s": median_of(starts, lambda start: start.cpu_s),
        "wall / bare": median_ratio(starts, reference, lambda start: start.wall_s),
        "cpu / bare": median_ratio(starts, reference, lambda start: start.cpu_s),
    }


def measure(rounds: int) -> Findings:
    """All rounds."""
    results: list[Result] = []
    tables: dict[str, list[Row]] = {}
    for compiled in (True, False):
        found = asyncio.run(by_turns(rounds, compiled=compiled))
        rows = {name: row(name, starts, found[BARE]) for name, starts in found.items()}
        how = "" if compiled else ", environment as it is"
        ratio, help_s = float(rows[MESH]["wall / bare"]), float(rows[HELP]["wall s"])
        title = f"mlxmesh up to first token over a bare process{how}"
        results += [
            Result(title, ratio, 1.3, at_least=False),
            Result(f"{HELP}{how}", help_s, 0.3, "s", at_least=False),
        ]
        tables[f"start-up{how}"] = list(rows.values())
    return Findings(results, tables)


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)
