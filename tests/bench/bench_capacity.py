"""What the mesh itself costs: a simulated engine behind real services, clients in this process.

    .venv/bin/python -m tests.bench.bench_capacity [--rounds 3] [--json FILE]

CPU times are read from the operating system by process, so they hold on a busy machine as well;
`at 2 cores` is the tokens/s that two cores would give at that cost.
"""

from __future__ import annotations

import asyncio
import statistics

from tests.bench.bare_relay import BareClient, bare_relay
from tests.bench.load import DirectEngine, Load, cost_row
from tests.bench.results import Findings, Result, Row, run_alone
from tests.bench.samples import percentile
from tests.bench.serving import Mesh, bench_model, simulated

STREAMS = (1, 8, 32, 64, 128, 256)
PROMPT_TOKENS = (64, 512, 2_000, 8_000)
CALLS = 300
TURNS = 7
DIRECT, THROUGH, COUNT = "engine, first token", "mesh, first token", "CountTokens"
BARE = "bare relay, unary"


async def costs(on: Mesh, rounds: int) -> list[Row]:
    """From 1 to 256 streams, each asking for as many tokens."""
    async with Load(on.address, on.pids) as load:
        await load.run(8, new_tokens=50)
        return [
            cost_row({"streams": n}, [await load.run(n, new_tokens=300) for _ in range(rounds)])
            for n in STREAMS
        ]


async def costs_by_prompt(on: Mesh, rounds: int) -> list[Row]:
    """8 streams with longer and longer prompts."""
    rows: list[Row] = []
    async with Load(on.address, on.pids) as load:
        for tokens in PROMPT_TOKENS:
            runs = [await load.run(8, new_tokens=64, prompt_tokens=tokens) for _ in range(rounds)]
            rows.append(cost_row({"prompt tokens": tokens}, runs))
    return rows


async def latencies(on: Mesh, relay: str) -> tuple[dict[str, Row], Row]:
    """One call at a time, by turns: the engine directly, the mesh, CountTokens, a bare relay."""
    found: dict[str, list[float]] = {DIRECT: [], THROUGH: [], COUNT: [], BARE: []}
    async with (
        Load(on.address, on.pids) as load,
        DirectEngine(on.addresses["engine"]) as engine,
        BareClient(relay, {}) as bare,
    ):
        for _ in range(CALLS):
            found[BARE].append(await bare.echo_s())
            found[DIRECT].append(await engine.first_token_s(64))
            found[THROUGH].append(await load.first_token_s(64))
            found[COUNT].append(await load.count_tokens_s("How much is it? " * 4))
    unary = _beside("unary call, s", list(zip(found[COUNT], found[BARE], strict=True)))
    return {name: latency_row(name, sorted(values)) for name, values in found.items()}, unary


async def beside_relay(on: Mesh, relay: str, pids: dict[str, int]) -> Row:
    """What 32 streams cost gateway and generation, and a bare relay and its server, by turns."""
    pairs: list[tuple[float, float]] = []
    async with Load(on.address, on.pids) as load, BareClient(relay, pids) as bare:
        for _ in range(TURNS):
            run = await load.run(32, new_tokens=300)
            bare_us = await bare.us_per_message(32, 300, 4)
            pairs.append((run.cpu_us_per_message("gateway", "generation"), bare_us))
    return _beside("us of CPU a message, 32 streams", pairs)


def latency_row(name: str, sorted_s: list[float]) -> Row:
    """Percentiles of one kind of call."""
    at = {f"p{p} ms": 1e3 * percentile(sorted_s, p / 100) for p in (25, 50, 90, 99)}
    return {"call": name, **at}


def measure(rounds: int) -> Findings:
    """Three meshes one after the other, each with an engine of another speed."""
    with bench_model() as model, bare_relay() as (relay, pids):
        with simulated(model, simulated_step_ms=4, max_running=256) as on:
            steady = asyncio.run(costs(on, rounds))
            message = asyncio.run(beside_relay(on, relay, pids))
        with simulated(model, simulated_step_ms=2, max_running=256) as on:
            fast = asyncio.run(costs(on, rounds))
            by_prompt = asyncio.run(costs_by_prompt(on, rounds))
        with simulated(model, simulated_step_ms=0) as on:
            calls, unary = asyncio.run(latencies(on, relay))
    return Findings(
        [*speeds(fast), over_bare(message), *delays(calls)],
        {
            "an engine that makes a token per stream every 4 ms": steady,
            "every 2 ms: more than the mesh can send one by one": fast,
            "8 streams, by prompt length": by_prompt,
            "one call at a time": list(calls.values()),
            "beside a relay and a server that do nothing else": [message, unary],
        },
    )


def speeds(rows: list[Row]) -> list[Result]:
    """What is wanted of the fast engine's mesh.

    Where the mesh is behind, tokens join; so what it can send at once is its messages.
    """
    at = {row["streams"]: row for row in rows}
    at_once = float(at[32]["tokens/s"]) / float(at[32]["per message"])
    cpu_us = float(at[32]["gateway us"]) + float(at[32]["generation us"])
    unit = "us of CPU a message"
    return [
        Result("32 streams, each token at once", at_once, 8_000, "messages/s"),
        Result("256 streams, tokens joined", float(at[256]["tokens/s"]), 40_000, "tokens/s"),
        Result("gateway and generation, 32 streams", cpu_us, 100, unit, at_least=False),
    ]


def _beside(what: str, pairs: list[tuple[float, float]]) -> Row:
    """Medians of the mesh's figures and the bare relay's, and of their ratios turn by turn."""
    mesh, bare = zip(*pairs, strict=True)
    ratio = statistics.median(above / below for above, below in pairs)
    return {
        "what": what,
        "mesh": statistics.median(mesh),
        "bare": statistics.median(bare),
        "ratio": ratio,
    }


def over_bare(message: Row) -> Result:
    """A message of gateway and generation over one of a bare relay and its server."""
    ratio = float(message["ratio"])
    return Result("gateway and generation over a bare relay", ratio, 0.8, at_least=False)


def delays(calls: dict[str, Row]) -> list[Result]:
    """What is wanted of single calls."""

    def added_ms(percentile_: str) -> float:
        return float(calls[THROUGH][percentile_]) - float(calls[DIRECT][percentile_])

    count_ms = float(calls[COUNT]["p50 ms"])
    return [
        Result("added time to first token, p50", added_ms("p50 ms"), 3, "ms", at_least=False),
        Result("added time to first token, p99", added_ms("p99 ms"), 10, "ms", at_least=False),
        Result("CountTokens, p50", count_ms, 2, "ms", at_least=False),
    ]


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=3)
