"""What the prefix cache gives, through the gateway: a shared prefix, conversations, two replicas.

.venv/bin/python -m tests.bench.bench_prefix [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_client import MeshClient
from mlxmesh_engine.cache.prefix_cache import BLOCK_TOKENS, PrefixCache
from tests.bench.bench_model import VOCAB, prompts
from tests.bench.results import Findings, Result, Row, median_of, median_ratio, run_alone
from tests.bench.serving import MODEL, bench_model, serving

PREFIX_TOKENS = 1000
NEW_TURN_TOKENS = 40


@dataclass(frozen=True)
class Answer:
    """One request's outcome."""

    engine_id: str
    ttft_ms: float
    prompt_tokens: int
    cached_tokens: int
    token_ids: list[int]


async def ask(
    client: MeshClient,
    prompt: list[int],
    max_tokens: int = 4,
    on_started: Callable[[str], None] = lambda engine_id: None,
) -> Answer:
    started_s = time.perf_counter()
    ttft_ms, engine_id, usage = 0.0, "", None
    tokens: list[int] = []
    async for event in client.generate(
        MODEL, token_ids=prompt, max_tokens=max_tokens, ignore_eos=True
    ):
        if event.token_ids and not tokens:
            ttft_ms = (time.perf_counter() - started_s) * 1e3
        tokens += event.token_ids
        if event.started:
            engine_id = event.started.engine_id
            on_started(engine_id)
        if event.finished:
            usage = event.finished.usage
    assert usage is not None
    return Answer(engine_id, ttft_ms, usage.prompt_tokens, usage.cached_tokens, tokens)


async def shared_prefix(client: MeshClient, rounds: int) -> Row:
    """The first and the second request after each of many prefixes."""
    cold: list[float] = []
    warm: list[float] = []
    for seed in range(rounds):
        (prefix,), tails = prompts(1, PREFIX_TOKENS, seed=seed), prompts(2, 16, seed=900 + seed)
        cold.append((await ask(client, prefix + tails[0])).ttft_ms)
        second = await ask(client, prefix + tails[1])
        assert second.cached_tokens > PREFIX_TOKENS - BLOCK_TOKENS
        warm.append(second.ttft_ms)
    return {
        "prefix tokens": PREFIX_TOKENS,
        "cold ttft ms": statistics.median(cold),
        "warm ttft ms": statistics.median(warm),
        "ratio": median_ratio(warm, cold, float),
    }


async def conversation(client: MeshClient, rounds: int) -> list[Row]:
    """A conversation's turns: a long first one, then short ones."""
    turns: dict[int, list[Answer]] = {}
    for seed in range(rounds):
        (history,) = prompts(1, PREFIX_TOKENS, seed=2000 + seed)
        for turn in range(1, 5):
            answer = await ask(client, history, max_tokens=64)
            turns.setdefault(turn, []).append(answer)
            (added,) = prompts(1, NEW_TURN_TOKENS, seed=3000 + 10 * seed + turn)
            history += answer.token_ids + added
    return [
        {
            "turn": turn,
            "prompt tokens": answers[0].prompt_tokens,
            "read": answers[0].prompt_tokens - answers[0].cached_tokens,
            "ttft ms": median_of(answers, lambda answer: answer.ttft_ms),
        }
        for turn, answers in turns.items()
    ]


async def shared_workload(client: MeshClient, replicas: int) -> Row:
    """240 requests, 8 at a time, each after one of 6 prefixes."""
    rng = random.Random(1)
    beginnings = prompts(6, 512, seed=77)
    asked = [rng.choice(beginnings) + tail for tail in prompts(240, 32, seed=78)]
    at_once = asyncio.Semaphore(8)
    running: Counter[str] = Counter()
    shares: list[float] = []

    def on_started(engine_id: str) -> None:
        running[engine_id] += 1
        if running.total() == 8:
            shares.append(max(running.values()) * replicas / 8)

    async def one(prompt: list[int]) -> Answer:
        async with at_once:
            answer = await ask(client, prompt, max_tokens=16, on_started=on_started)
            running[answer.engine_id] -= 1
            return answer

    answers = await asyncio.gather(*map(one, asked))
    served = Counter(answer.engine_id for answer in answers)
    cached = sum(answer.cached_tokens for answer in answers)
    return {
        "replicas": replicas,
        "hit rate": cached / sum(answer.prompt_tokens for answer in answers),
        "load of mean, most": max(shares),
        "served of mean, most": max(served.values()) * replicas / len(answers),
        "ttft p50 ms": median_of(answers, lambda answer: answer.ttft_ms),
    }


def look_up() -> list[Row]:
    """CPU time to look a prompt up, the worst kind for each number of entries."""
    rows: list[Row] = []
    rng = random.Random(0)
    for entries in (1, 1000):
        cache: PrefixCache[None] = PrefixCache(2**40)
        tokens = [rng.randrange(VOCAB) for _ in range(100_000)]
        for entry in range(1, entries + 1):
            known = tokens[: entry * len(tokens) // entries]
            cache.insert(known, token_bytes=1, extract=lambda start, stop: None)
        took_ms: list[float] = []
        for _ in range(21):
            started_s = time.process_time()
            cache.find(tokens)
            took_ms.append((time.process_time() - started_s) * 1e3)
        rows.append(
            {"tokens": len(tokens), "entries": entries, "cpu ms": statistics.median(took_ms)}
        )
    return rows


async def one_replica(address: str, rounds: int) -> tuple[Row, list[Row], Row]:
    """A shared prefix, a conversation, and the workload that two replicas get too."""
    async with MeshClient(address) as client:
        await warm_up(client)
        return (
            await shared_prefix(client, rounds),
            await conversation(client, rounds),
            await shared_workload(client, 1),
        )


async def two_replicas(address: str) -> Row:
    async with MeshClient(address) as client:
        await warm_up(client)
        return await shared_workload(client, 2)


async def warm_up(client: MeshClient) -> None:
    await ask(client, prompts(1, 1100, seed=5)[0])


def measure_meshes(model: Path, rounds: int) -> tuple[Row, list[Row], Row, Row]:
    """First one replica, then two."""
    with serving(model, "--replicas", "1") as mesh:
        prefix, turns, one = asyncio.run(one_replica(mesh.address, rounds))
    with serving(model, "--replicas", "2") as mesh:
        return prefix, turns, one, asyncio.run(two_replicas(mesh.address))


def measure(rounds: int) -> Findings:
    """The look-up first, while nothing else runs."""
    look_ups = look_up()
    with bench_model() as model:
        prefix, turns, one, two = measure_meshes(model, rounds)
    read = max(int(turn["read"]) for turn in turns[1:]) - NEW_TURN_TOKENS
    hits = float(two["hit rate"]) / float(one["hit rate"])
    shares = max(float(two["load of mean, most"]), float(two["served of mean, most"]))
    slowest_ms = max(float(row["cpu ms"]) for row in look_ups)
    return Findings(
        [
            Result(
                "TTFT after a known prefix over cold", float(prefix["ratio"]), 0.1, at_least=False
            ),
            Result("read beyond a new turn", read, BLOCK_TOKENS, "tokens", at_least=False),
            Result("look-up of 100,000 tokens", slowest_ms, 5.0, "ms of CPU", at_least=False),
            Result("hit rate of two replicas over one", hits, 0.9),
            Result("busiest replica over the mean", shares, 1.25, at_least=False),
        ],
        {
            "shared prefix": [prefix],
            "conversation": turns,
            "two replicas": [one, two],
            "look-up": look_ups,
        },
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=5)
