"""Many streams and long prompts through the gateway, on a real engine at its defaults.

    .venv/bin/python -m tests.bench.bench_streams [--rounds 3] [--streams 1 8 32 64 128 256]

Each round has every number of streams, and every prompt length, in turn, with prompts that nobody
has seen before; ratios are taken round by round. What a waiting stream takes in memory is read
from a mesh with a simulated engine, whose own memory does not move.
"""

from __future__ import annotations

import asyncio

from tests.bench.load import CLIENT, Load, Run, cost_row, memory_bytes
from tests.bench.results import Findings, Result, Row, median_ratio, run_alone
from tests.bench.serving import MESH, Mesh, bench_model, serving, simulated

STREAMS = (1, 8, 32, 64, 128, 256)
PROMPTS = (64, 512, 2_000, 8_000)
PROMPT_STREAMS = 2
PROMPT_TOKENS, NEW_TOKENS = 64, 64
BY_STREAMS = "through the gateway by streams"
COST_BY_STREAMS = "cost of a token by streams"
COST_BY_PROMPT = "cost of a token by prompt length"
MAX_RUNNING, WAITING = 64, 200
SETTLE_S = 4.0
"""Until every stream of a load has arrived and waits."""


async def by_turns(
    on: Mesh, rounds: int, streams: list[int], prompts: list[int]
) -> tuple[dict[int, list[Run]], dict[int, list[Run]]]:
    """Runs by number of streams, and by prompt length."""
    by_streams: dict[int, list[Run]] = {count: [] for count in streams}
    by_prompt: dict[int, list[Run]] = {tokens: [] for tokens in prompts}
    async with Load(on.address, on.pids) as load:
        await load.run(PROMPT_STREAMS, new_tokens=NEW_TOKENS)
        for _ in range(rounds):
            for count, runs in by_streams.items():
                runs.append(await load.run(count, new_tokens=NEW_TOKENS))
            for tokens, runs in by_prompt.items():
                runs.append(
                    await load.run(PROMPT_STREAMS, new_tokens=NEW_TOKENS, prompt_tokens=tokens)
                )
    return by_streams, by_prompt


def token_row(key: Row, runs: list[Run], prompt_tokens: int) -> Row:
    """CPU that a new token costs by process, and of all together for a token read or new."""
    new = sum(run.tokens for run in runs)
    read = prompt_tokens * sum(len(run.outcomes) for run in runs)
    cpu_us = {name: 1e6 * sum(run.cpu_s[name] for run in runs) for name in (*MESH, CLIENT)}
    return {
        **key,
        **{f"{name} us/new token": spent / new for name, spent in cpu_us.items()},
        "all us/new token": sum(cpu_us.values()) / new,
        "all us/token read or new": sum(cpu_us.values()) / (read + new),
    }


async def memory_of_waiting(on: Mesh) -> Row:
    """What a stream that waits for its turn takes in gateway, generation and engine together."""
    streams = MAX_RUNNING + WAITING
    async with Load(on.address, on.pids, connections=2) as load:
        await load.run(8, new_tokens=2)
        before = memory_bytes(on.pids)
        waiting = asyncio.create_task(load.run(streams, new_tokens=1_000))
        await asyncio.sleep(SETTLE_S)
        grown = memory_bytes(on.pids) - before
        waiting.cancel()
        await asyncio.wait({waiting})
    return {"streams": streams, "of them waiting": WAITING, "KiB a stream": grown / 1024 / streams}


def measure(rounds: int, streams: list[int], prompts: list[int]) -> Findings:
    """The real engine first, then the memory."""
    with bench_model() as model:
        with serving(model) as on:
            by_streams, by_prompt = asyncio.run(by_turns(on, rounds, streams, prompts))
        with simulated(model, simulated_step_ms=1000, max_running=MAX_RUNNING) as on:
            waiting = asyncio.run(memory_of_waiting(on))
    return Findings(
        [*verdicts(by_streams), memory_verdict(waiting)],
        {
            BY_STREAMS: [cost_row({"streams": n}, runs) for n, runs in by_streams.items()],
            COST_BY_STREAMS: [
                token_row({"streams": n}, runs, PROMPT_TOKENS) for n, runs in by_streams.items()
            ],
            f"prompt length, {PROMPT_STREAMS} streams": [
                cost_row({"prompt tokens": n}, runs) for n, runs in by_prompt.items()
            ],
            COST_BY_PROMPT: [
                token_row({"prompt tokens": n}, runs, n) for n, runs in by_prompt.items()
            ],
            "waiting streams": [waiting],
        },
    )


def verdicts(by_streams: dict[int, list[Run]]) -> list[Result]:
    """What is wanted of the most streams, beside 32."""
    most = max(by_streams)
    results: list[Result] = []
    if 32 in by_streams and most > 32:
        ratio = median_ratio(by_streams[most], by_streams[32], lambda run: run.tokens_per_second)
        results.append(Result(f"tokens/s of {most} streams over 32", ratio, 1.0))
    lost = sum(
        outcome.error is not None and outcome.error.retry_delay_s is None
        for run in by_streams[most]
        for outcome in run.outcomes
    )
    failed = f"{most} streams: failed without RetryInfo"
    return [*results, Result(failed, lost, 0, "streams", at_least=False)]


def memory_verdict(row: Row) -> Result:
    kib = float(row["KiB a stream"])
    return Result("memory of a waiting stream", kib, 100, "KiB", at_least=False)


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=3, streams=STREAMS, prompts=PROMPTS)
