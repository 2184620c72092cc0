"""What the mesh itself costs: a simulated engine behind real services, clients in this process.

    .venv/bin/python -m tests.bench.bench_capacity [--rounds 3] [--json FILE]

CPU times are read from the operating system by process, so they hold on a busy machine as well;
`at 2 cores` is the tokens/s that two cores would give at that cost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.bench.capacity_load import MODEL, DirectEngine, Load, Run, memory_bytes
from tests.bench.samples import percentile

MESH = ("gateway", "generation", "engine")
STREAMS = (1, 8, 32, 64, 128, 256)
PROMPT_TOKENS = (64, 512, 2_000, 8_000)
CALLS = 300
MAX_RUNNING, WAITING = 64, 200
Row = dict[str, float | int | str]


@dataclass(frozen=True)
class Mesh:
    """A running mesh: where it is and which processes it has."""

    addresses: dict[str, str]
    pids: dict[str, int]

    def load(self) -> Load:
        return Load(self.addresses["gateway"], self.pids)


@contextlib.contextmanager
def mesh(model: Path, **engine: float) -> Iterator[Mesh]:
    """A mesh whose engine is simulated; `engine` is its settings."""
    settings = {"BACKEND": "simulated", "SIMULATED_PREFILL_US_PER_TOKEN": 0, **engine}
    environment = {f"MLXMESH_ENGINE_{name.upper()}": str(value) for name, value in settings.items()}
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as data_dir:

        def command(*words: str) -> Any:
            line = [sys.executable, "-m", "mlxmesh_cli", *words, "--json", "--data-dir", data_dir]
            done = subprocess.run(
                line, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | environment
            )
            return json.loads(done.stdout)

        command("up", "--detach", "--grpc-port", "0", "--model", str(model))
        try:
            instances = [one for one in command("status")["instances"] if one["service"] in MESH]
            yield Mesh(
                {one["service"]: one["address"] for one in instances},
                {one["service"]: one["pid"] for one in instances},
            )
        finally:
            command("down")


def write_bench_model(directory: Path) -> None:
    """Writes the model in a process of its own, so that this one holds no MLX."""
    script = "import sys, pathlib; from tests.bench.bench_model import write_model as write; "
    script += "write(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, str(directory)], check=True)


def cost_row(runs: list[Run], **key: int) -> Row:
    """Medians of the rounds of one load."""

    def median(of: Callable[[Run], float]) -> float:
        return statistics.median(of(run) for run in runs)

    failed = [outcome.error for run in runs for outcome in run.outcomes if outcome.error]
    firsts = sorted(outcome.first_s for run in runs for outcome in run.outcomes)
    return {
        **key,
        "tokens/s": median(lambda run: run.tokens_per_second),
        "at 2 cores": median(lambda run: 2 * run.tokens / sum(run.cpu_s.values())),
        "tokens/message": median(lambda run: run.tokens / run.messages),
        "gateway us": median(lambda run: run.cpu_us_per_message("gateway")),
        "generation us": median(lambda run: run.cpu_us_per_message("generation")),
        "engine us": median(lambda run: run.cpu_us_per_message("engine")),
        "client us": median(lambda run: run.cpu_us_per_message("client")),
        "first p50 ms": 1e3 * percentile(firsts, 0.5),
        "longest gap ms": 1e3 * max(o.longest_gap_s for run in runs for o in run.outcomes),
        "failed": len(failed),
        "without RetryInfo": sum(error.retry_delay_s is None for error in failed),
    }


async def costs(on: Mesh, rounds: int) -> list[Row]:
    """From 1 to 256 streams, each asking for as many tokens."""
    async with on.load() as load:
        await load.run(8, new_tokens=50)
        return [
            cost_row([await load.run(n, new_tokens=300) for _ in range(rounds)], streams=n)
            for n in STREAMS
        ]


async def costs_by_prompt(on: Mesh, rounds: int) -> list[Row]:
    """8 streams with longer and longer prompts."""
    async with on.load() as load:
        return [
            cost_row(
                [await load.run(8, new_tokens=64, prompt_tokens=n) for _ in range(rounds)],
                prompt_tokens=n,
            )
            for n in PROMPT_TOKENS
        ]


async def latencies(on: Mesh) -> list[Row]:
    """One call at a time, by turns: the engine directly, through the mesh, and CountTokens."""
    found: dict[str, list[float]] = {"engine, first token": [], "mesh, first token": []}
    found["CountTokens"] = []
    async with on.load() as load, DirectEngine(on.addresses["engine"]) as engine:
        for number in range(CALLS):
            found["engine, first token"].append(await engine.first_token_s(64))
            outcome = await load.stream(number, 2, 64)
            if outcome.error is not None:
                raise outcome.error
            found["mesh, first token"].append(outcome.first_s)
            found["CountTokens"].append(await load.count_tokens_s("How much is it? " * 4))
    rows: list[Row] = []
    for name, values in found.items():
        values.sort()
        at = {f"p{p} ms": 1e3 * percentile(values, p / 100) for p in (25, 50, 90, 99)}
        rows.append({"call": name, **at})
    return rows


async def memory_of_waiting(on: Mesh) -> Row:
    """What a stream that waits for its turn takes in gateway, generation and engine together."""
    streams = MAX_RUNNING + WAITING
    async with on.load() as load:
        await load.run(8, new_tokens=2)
        before = memory_bytes(on.pids)
        waiting = asyncio.create_task(load.run(streams, new_tokens=1_000))
        await asyncio.sleep(4)
        grown = memory_bytes(on.pids) - before
        waiting.cancel()
        await asyncio.wait({waiting})
    return {"streams": streams, "of them waiting": WAITING, "KiB a stream": grown / 1024 / streams}


def show(title: str, rows: list[Row]) -> None:
    table = Table(*rows[0], title=title, box=None)
    for row in rows:
        table.add_row(*(f"{v:,.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=200).print(table)


def measure(rounds: int) -> dict[str, list[Row]]:
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        model = Path(folder) / MODEL
        write_bench_model(model)
        with mesh(model, simulated_step_ms=4, max_running=256) as on:
            steady = asyncio.run(costs(on, rounds))
        with mesh(model, simulated_step_ms=2, max_running=256) as on:
            fast = asyncio.run(costs(on, rounds))
            prompts = asyncio.run(costs_by_prompt(on, rounds))
        with mesh(model, simulated_step_ms=0) as on:
            calls = asyncio.run(latencies(on))
        with mesh(model, simulated_step_ms=1000, max_running=MAX_RUNNING) as on:
            waiting = [asyncio.run(memory_of_waiting(on))]
    return {
        "an engine that makes a token per stream every 4 ms": steady,
        "every 2 ms: more than the mesh can send one by one": fast,
        "8 streams, by prompt length": prompts,
        "one call at a time": calls,
        "waiting streams": waiting,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each load")
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    tables = measure(args.rounds)
    for title, rows in tables.items():
        show(title, rows)
    if args.json:
        args.json.write_text(json.dumps(tables, indent=2))


if __name__ == "__main__":
    main()
