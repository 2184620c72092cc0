"""32 streams with 32 different samplers beside the same load all greedy, through the gateway.

    .venv/bin/python -m tests.bench.bench_samplers [--rounds 7] [--json FILE]

The two take turns. Their prompts differ, or the second would find the first one's in the prefix
cache. Ratios are taken round by round: by tokens/s, and by the engine's CPU time.
"""

from __future__ import annotations

import asyncio

from tests.bench.load import Load, Run
from tests.bench.results import Findings, Result, Row, median_of, median_ratio, run_alone
from tests.bench.samplers import greedy, mixed
from tests.bench.serving import Mesh, bench_model, serving

STREAMS, NEW_TOKENS = 32, 64
GREEDY, MIXED = "all greedy", "32 different"
SAMPLERS = {GREEDY: greedy, MIXED: mixed}


async def by_turns(on: Mesh, rounds: int) -> dict[str, list[Run]]:
    """The runs of each side; another goes first in each round."""
    found: dict[str, list[Run]] = {name: [] for name in SAMPLERS}
    async with Load(on.address, on.pids) as load:
        for number in range(rounds + 1):
            for name in sorted(SAMPLERS, reverse=bool(number % 2)):
                run = await load.run(STREAMS, new_tokens=NEW_TOKENS, sampler=SAMPLERS[name])
                run.raise_failure()
                assert run.tokens == STREAMS * NEW_TOKENS, "a stream came up short"
                if number:  # the first round warms up
                    found[name].append(run)
    return found


def speed(run: Run) -> float:
    return run.tokens_per_second


def tokens_per_engine_s(run: Run) -> float:
    """Tokens of one second of the engine's CPU time."""
    return run.tokens / run.cpu_s["engine"]


def measure(rounds: int) -> Findings:
    """All rounds on one mesh."""
    with bench_model() as model, serving(model) as on:
        found = asyncio.run(by_turns(on, rounds))
    rows: list[Row] = [
        {
            "samplers": name,
            "tokens/s": median_of(runs, speed),
            "tokens a CPU s of the engine": median_of(runs, tokens_per_engine_s),
        }
        for name, runs in found.items()
    ]
    by_time = median_ratio(found[MIXED], found[GREEDY], speed)
    by_cpu = median_ratio(found[MIXED], found[GREEDY], tokens_per_engine_s)
    return Findings(
        [
            Result("32 different samplers over all greedy, tokens/s", by_time, 0.9),
            Result("32 different samplers over all greedy, engine CPU", by_cpu, 0.9),
        ],
        {"32 streams through the gateway": rows},
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=7)
