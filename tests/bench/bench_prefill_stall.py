"""How long running streams wait for their next token while long prompts are read, by slowdown.

    .venv/bin/python -m tests.bench.bench_prefill_stall [--rounds 1] [--slowdowns 1.5 2.5 5]

The engine's step loop on a 4 M-parameter Llama: 8 streams decode, then 8 prompts of 4,000 tokens
arrive. A gap is the time from one token of a stream to its next. The processor time of a gap says
the same without what other processes on the machine take. A slowdown is the engine's setting
`prefill_slowdown`; 1000 leaves only `prefill_tokens_per_step` to bound a step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from mlxmesh_engine.blas import prepare_blas

prepare_blas()

from mlxmesh_engine.request import Sequence  # noqa: E402 - only after the BLAS
from mlxmesh_shared.settings.sections import EngineSettings  # noqa: E402
from tests.bench.bench_model import prompts, write_model  # noqa: E402
from tests.bench.results import Findings, Result, Row, median_of, run_alone  # noqa: E402
from tests.bench.samples import percentile  # noqa: E402
from tests.fakes.engine_rig import Rig, load_model  # noqa: E402

STREAMS = 8
STREAM_PROMPT_TOKENS = 64
LONG_PROMPTS = 8
LONG_PROMPT_TOKENS = 4000
QUIET_TURNS = 200
CONTEXT_TOKENS = 16_384
DEFAULT: float = EngineSettings.model_fields["prefill_slowdown"].default
SLOWDOWNS = (DEFAULT,)


@dataclass(frozen=True)
class Gap:
    """From one token of every running stream to its next."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Stall:
    """One round of one slowdown; `stall` is the busy gaps' p99 over the quiet ones' p50."""

    quiet_p50_ms: float
    busy_p99_ms: float
    stall: float
    stall_by_cpu: float
    prefill_tokens_per_second: float


def stalled(rig: Rig, *, seed: int) -> Stall:
    """Decode quietly, then with the long prompts, until they are read."""
    numbers = range(1, STREAMS + 1)
    for number, ids in zip(
        numbers, prompts(STREAMS, STREAM_PROMPT_TOKENS, seed=10_000 + seed), strict=True
    ):
        rig.submit(Sequence((1, number), tuple(ids), CONTEXT_TOKENS - STREAM_PROMPT_TOKENS))
    while not all(_tokens(rig, number) for number in numbers):
        rig.turn()
    quiet = [_gap(rig) for _ in range(QUIET_TURNS)]

    long_numbers = range(STREAMS + 1, STREAMS + LONG_PROMPTS + 1)
    long_prompts = prompts(LONG_PROMPTS, LONG_PROMPT_TOKENS, seed=seed)
    for number, ids in zip(long_numbers, long_prompts, strict=True):
        rig.submit(Sequence((1, number), tuple(ids), 1))
    busy: list[Gap] = []
    while not all(_tokens(rig, number) for number in long_numbers):
        busy.append(_gap(rig))

    def p50_and_p99(seconds: Callable[[Gap], float]) -> tuple[float, float]:
        p50 = statistics.median(map(seconds, quiet))
        return p50, percentile(sorted(map(seconds, busy)), 0.99)

    quiet_s, busy_s = p50_and_p99(lambda gap: gap.wall_s)
    quiet_cpu_s, busy_cpu_s = p50_and_p99(lambda gap: gap.cpu_s)
    return Stall(
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


def row(slowdown: float, stalls: list[Stall]) -> Row:
    """Medians over the rounds."""

    def median(name: str) -> float:
        return median_of(stalls, lambda stall: getattr(stall, name))

    figures = {field.name.replace("_", " "): median(field.name) for field in fields(Stall)}
    return {"slowdown": slowdown, **figures}


def measure(rounds: int, slowdowns: list[float]) -> Findings:
    """Every slowdown in turn, on one loaded model; the default one is judged."""
    found: dict[float, list[Stall]] = {slowdown: [] for slowdown in slowdowns}
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as directory:
        write_model(Path(directory))
        loaded = load_model(Path(directory))
        for number in range(1, rounds + 1):
            for slowdown in slowdowns:
                rig = Rig(loaded, clock=time.monotonic, prefill_slowdown=slowdown)
                found[slowdown].append(stalled(rig, seed=number))
    rows = {slowdown: row(slowdown, stalls) for slowdown, stalls in found.items()}
    results = [
        Result(
            f"gap p99 while prompts are read over quiet p50, slowdown {slowdown}",
            float(rows[slowdown]["stall"]),
            3.0,
            at_least=False,
        )
        for slowdown in slowdowns
        if slowdown == DEFAULT
    ]
    return Findings(
        results, {"running streams while 8 prompts of 4,000 tokens are read": list(rows.values())}
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=1, slowdowns=SLOWDOWNS)
