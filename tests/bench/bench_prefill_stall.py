"""How long running streams wait for their next token while long prompts are read, by token budget.

    .venv/bin/python -m tests.bench.bench_prefill_stall [--budgets 32 64 128 256 512] [--json FILE]

The engine's step loop on a 4 M-parameter Llama: 8 streams decode, then 8 prompts of 4,000 tokens
arrive. A gap is the time from one token of a stream to its next. The processor time of a gap says
the same without what other processes on the machine take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mlxmesh_engine.blas import prepare_blas

prepare_blas()

from mlxmesh_engine.request import Sequence  # noqa: E402 - only after the BLAS
from tests.bench.bench_model import prompts, write_model  # noqa: E402
from tests.bench.samples import percentile  # noqa: E402
from tests.fakes.engine_rig import Rig, load_model  # noqa: E402

STREAMS = 8
STREAM_PROMPT_TOKENS = 64
LONG_PROMPTS = 8
LONG_PROMPT_TOKENS = 4000
QUIET_TURNS = 200
CONTEXT_TOKENS = 16_384


@dataclass(frozen=True)
class Gap:
    """From one token of every running stream to its next."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Result:
    """One budget's figures; a stall is a gap's p99 while prompts are read, over the quiet p50."""

    budget_tokens: int
    quiet_p50_ms: float
    busy_p99_ms: float
    stall: float
    stall_by_cpu: float
    prefill_tokens_per_second: float


def measure(rig: Rig, budget_tokens: int) -> Result:
    """Decode quietly, then with the long prompts, until they are read."""
    numbers = range(1, STREAMS + 1)
    for number, ids in zip(numbers, prompts(STREAMS, STREAM_PROMPT_TOKENS, seed=1), strict=True):
        rig.submit(Sequence((1, number), tuple(ids), CONTEXT_TOKENS - STREAM_PROMPT_TOKENS))
    while not all(_tokens(rig, number) for number in numbers):
        rig.turn()
    quiet = [_gap(rig) for _ in range(QUIET_TURNS)]

    long_numbers = range(STREAMS + 1, STREAMS + LONG_PROMPTS + 1)
    long_prompts = prompts(LONG_PROMPTS, LONG_PROMPT_TOKENS, seed=budget_tokens)
    for number, ids in zip(long_numbers, long_prompts, strict=True):
        rig.submit(Sequence((1, number), tuple(ids), 1))
    busy: list[Gap] = []
    while not all(_tokens(rig, number) for number in long_numbers):
        busy.append(_gap(rig))

    def stall(seconds: Callable[[Gap], float]) -> tuple[float, float]:
        p50 = statistics.median(map(seconds, quiet))
        return p50, percentile(sorted(map(seconds, busy)), 0.99)

    quiet_s, busy_s = stall(lambda gap: gap.wall_s)
    quiet_cpu_s, busy_cpu_s = stall(lambda gap: gap.cpu_s)
    return Result(
        budget_tokens=budget_tokens,
        quiet_p50_ms=quiet_s * 1e3,
        busy_p99_ms=busy_s * 1e3,
        stall=busy_s / quiet_s,
        stall_by_cpu=busy_cpu_s / quiet_cpu_s,
        prefill_tokens_per_second=LONG_PROMPTS * LONG_PROMPT_TOKENS / sum(g.wall_s for g in busy),
    )


def _gap(rig: Rig) -> Gap:
    """One turn: it gives every running stream a token."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    rig.turn()
    return Gap(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def _tokens(rig: Rig, number: int) -> int:
    return sum(len(update.token_ids) for update in rig.updates.get(number, ()))


def run(budgets: list[int]) -> list[Result]:
    """Every budget in turn, on one loaded model."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as directory:
        write_model(Path(directory))
        loaded = load_model(Path(directory))
        return [
            measure(Rig(loaded, clock=time.monotonic, prefill_tokens_per_step=budget), budget)
            for budget in budgets
        ]


def print_table(results: list[Result]) -> None:
    """One row a budget."""
    names = ("budget tokens", "quiet p50 ms", "busy p99 ms", "stall", "stall by cpu")
    table = Table(*names, "prompt tokens/s", box=None)
    for result in results:
        budget, *figures = asdict(result).values()
        table.add_row(str(budget), *(f"{figure:,.1f}" for figure in figures))
    console = Console()
    console.print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    console.print(table)


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budgets", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    results = run(args.budgets)
    print_table(results)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=2))


if __name__ == "__main__":
    main()
