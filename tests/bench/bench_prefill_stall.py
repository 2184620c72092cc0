"""How long running streams wait for their next token while long prompts are read, by slowdown.

    .venv/bin/python -m tests.bench.bench_prefill_stall [--rounds 1] [--slowdowns 1.5 2.5 5]

The engine's step loop on a 4 M-parameter Llama: 8 streams decode, then 8 prompts of 4,000 tokens
arrive. A gap is the time from one token of a stream to its next, and a stall a gap over what it is
when nothing is read: that is measured before and after and grows between, as the streams do. The
processor time of a gap says the same without what other processes on the machine take. A slowdown
is the engine's setting `prefill_slowdown`; 1000 leaves only `prefill_tokens_per_step` to bound a
step.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from mlxmesh_engine.forward.blas import prepare_blas

prepare_blas()

from mlxmesh_engine.scheduling.request import SequenceRequest  # noqa: E402 - only after the BLAS
from mlxmesh_shared.settings.sections import EngineSettings  # noqa: E402
from tests.bench.bench_model import prompts, write_model  # noqa: E402
from tests.bench.results import Findings, Result, Row, median_of, run_alone  # noqa: E402
from tests.bench.samples import percentile  # noqa: E402
from tests.fakes.engine_rig import Rig, load_model  # noqa: E402

STREAMS = 8
STREAM_PROMPT_TOKENS = 64
LONG_PROMPTS = 8
LONG_PROMPT_TOKENS = 4000
QUIET_TURNS = 100
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
    """One round of one slowdown."""

    quiet_p50_before_ms: float
    quiet_p50_after_ms: float
    busy_p99_ms: float
    stall_p99: float
    stall_p99_by_cpu: float
    prefill_tokens_per_second: float


def stalled(rig: Rig, *, seed: int) -> Stall:
    """Decode quietly, then with the long prompts, until they are read."""
    numbers = range(1, STREAMS + 1)
    for number, ids in zip(
        numbers, prompts(STREAMS, STREAM_PROMPT_TOKENS, seed=10_000 + seed), strict=True
    ):
        rig.submit(SequenceRequest((1, number), tuple(ids), CONTEXT_TOKENS - STREAM_PROMPT_TOKENS))
    while not all(_tokens(rig, number) for number in numbers):
        rig.step()
    before = [_gap(rig) for _ in range(QUIET_TURNS)]

    long_numbers = range(STREAMS + 1, STREAMS + LONG_PROMPTS + 1)
    long_prompts = prompts(LONG_PROMPTS, LONG_PROMPT_TOKENS, seed=seed)
    for number, ids in zip(long_numbers, long_prompts, strict=True):
        rig.submit(SequenceRequest((1, number), tuple(ids), 1))
    busy: list[Gap] = []
    while not all(_tokens(rig, number) for number in long_numbers):
        busy.append(_gap(rig))
    # The last prompts leave the batch with the first of these turns.
    after = [_gap(rig) for _ in range(QUIET_TURNS + 2)][2:]

    return Stall(
        quiet_p50_before_ms=1e3 * statistics.median(gap.wall_s for gap in before),
        quiet_p50_after_ms=1e3 * statistics.median(gap.wall_s for gap in after),
        busy_p99_ms=1e3 * percentile(sorted(gap.wall_s for gap in busy), 0.99),
        stall_p99=stall_p99(before, busy, after, lambda gap: gap.wall_s),
        stall_p99_by_cpu=stall_p99(before, busy, after, lambda gap: gap.cpu_s),
        prefill_tokens_per_second=LONG_PROMPTS * LONG_PROMPT_TOKENS / sum(g.wall_s for g in busy),
    )


def stall_p99(
    before: list[Gap], busy: list[Gap], after: list[Gap], seconds: Callable[[Gap], float]
) -> float:
    """Of each busy gap over the quiet gap of its time, between the one before and the one after."""
    first_s, last_s = (statistics.median(map(seconds, quiet)) for quiet in (before, after))
    growth_s = (last_s - first_s) / len(busy)
    stalls = sorted(seconds(gap) / (first_s + growth_s * at) for at, gap in enumerate(busy))
    return percentile(stalls, 0.99)


def _gap(rig: Rig) -> Gap:
    """One turn: it gives every running stream a token."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    rig.step()
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
            f"p99 of a gap while prompts are read over the quiet gap, slowdown {slowdown}",
            float(rows[slowdown]["stall p99"]),
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
