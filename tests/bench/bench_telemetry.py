"""What telemetry costs: two meshes on one machine, all of it on in one and off in the other.

    .venv/bin/python -m tests.bench.bench_telemetry [--rounds 20] [--streams 32]

The two take turns, and another goes first in each round; ratios are taken round by round. The mesh
that is not measured is idle meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from tests.bench.load import Load, Run, cost_row
from tests.bench.results import Findings, Result, Row, median_ratio, run_alone
from tests.bench.samples import percentile
from tests.bench.serving import Mesh, bench_model, serving

STREAMS = (32,)
NEW_TOKENS = 64
TITLE = "telemetry on, beside off"
WANTED_TOKENS, WANTED_TTFT = 0.97, 1.05
Rounds = tuple[list[Run], list[Run]]
"""With telemetry, and without."""


async def by_turns(on: Mesh, off: Mesh, rounds: int, streams: Sequence[int]) -> dict[int, Rounds]:
    """Runs by number of streams."""
    found: dict[int, Rounds] = {count: ([], []) for count in streams}
    async with AsyncExitStack() as stack:
        sides = [
            await stack.enter_async_context(Load(mesh.address, mesh.pids)) for mesh in (on, off)
        ]
        for load in sides:
            await load.run(max(streams), new_tokens=NEW_TOKENS)
        for number in range(rounds):
            for count in streams:
                for side in (0, 1) if number % 2 else (1, 0):
                    run = await sides[side].run(count, new_tokens=NEW_TOKENS)
                    run.raise_failure()
                    found[count][side].append(run)
    return found


def ttft_p99_s(run: Run) -> float:
    """Time to first token, of one round."""
    return percentile(sorted(outcome.first_s for outcome in run.outcomes), 0.99)


def rows(streams: int, on: list[Run], off: list[Run]) -> list[Row]:
    """What each side did and what it cost."""
    return [
        cost_row({"streams": streams, "telemetry": "on"}, on),
        cost_row({"streams": streams, "telemetry": "off"}, off),
    ]


def verdicts(streams: int, on: list[Run], off: list[Run]) -> list[Result]:
    """Telemetry must be hardly noticed."""
    tokens = median_ratio(on, off, lambda run: run.tokens_per_second)
    ttft = median_ratio(on, off, ttft_p99_s)
    return [
        Result(f"tokens/s with telemetry over without, {streams} streams", tokens, WANTED_TOKENS),
        Result(
            f"TTFT p99 with telemetry over without, {streams} streams",
            ttft,
            WANTED_TTFT,
            at_least=False,
        ),
    ]


def measure(rounds: int, streams: list[int]) -> Findings:
    """All rounds."""
    with bench_model() as model, serving(model) as on, serving(model, telemetry=False) as off:
        found = asyncio.run(by_turns(on, off, rounds, streams))
    return Findings(
        [result for count, sides in found.items() for result in verdicts(count, *sides)],
        {TITLE: [row for count, sides in found.items() for row in rows(count, *sides)]},
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=20, streams=STREAMS)
