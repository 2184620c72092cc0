"""What the prefix cache gives, through the gateway: a shared prefix, conversations, two replicas.

.venv/bin/python -m tests.bench.bench_prefix [--rounds 9] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mlxmesh_client import MeshClient
from mlxmesh_engine.prefix_cache import PrefixCache
from tests.bench.bench_model import VOCAB, prompts, write_model
from tests.e2e.running_mesh import start_mesh, stop_mesh

MODEL = "bench"
PREFIX_TOKENS = 1000
Row = dict[str, object]


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


async def shared_prefix(client: MeshClient, rounds: int) -> list[Row]:
    """The first and the second request after each of many prefixes."""
    cold: list[float] = []
    warm: list[float] = []
    for seed in range(rounds):
        (prefix,), tails = prompts(1, PREFIX_TOKENS, seed=seed), prompts(2, 16, seed=900 + seed)
        cold.append((await ask(client, prefix + tails[0])).ttft_ms)
        second = await ask(client, prefix + tails[1])
        assert second.cached_tokens > PREFIX_TOKENS - 32
        warm.append(second.ttft_ms)
    ratio = statistics.median(w / c for w, c in zip(warm, cold, strict=True))
    return [
        {
            "prefix tokens": PREFIX_TOKENS,
            "cold ttft ms": statistics.median(cold),
            "warm ttft ms": statistics.median(warm),
            "ratio": ratio,
        }
    ]


async def conversation(client: MeshClient, rounds: int) -> list[Row]:
    """A conversation's turns: a long first one, then short ones."""
    turns: dict[int, list[Answer]] = {}
    for seed in range(rounds):
        (history,) = prompts(1, PREFIX_TOKENS, seed=2000 + seed)
        for turn in range(1, 5):
            answer = await ask(client, history, max_tokens=64)
            turns.setdefault(turn, []).append(answer)
            history += answer.token_ids + prompts(1, 40, seed=3000 + 10 * seed + turn)[0]
    return [
        {
            "turn": turn,
            "prompt tokens": answers[0].prompt_tokens,
            "read": answers[0].prompt_tokens - answers[0].cached_tokens,
            "ttft ms": statistics.median(answer.ttft_ms for answer in answers),
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
        "ttft p50 ms": statistics.median(answer.ttft_ms for answer in answers),
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
            cache.keep(known, token_bytes=1, extract=lambda start, stop: None)
        took_ms: list[float] = []
        for _ in range(21):
            started_s = time.process_time()
            cache.find(tokens)
            took_ms.append((time.process_time() - started_s) * 1e3)
        rows.append(
            {"tokens": len(tokens), "entries": entries, "cpu ms": statistics.median(took_ms)}
        )
    return rows


async def on_mesh(
    model: Path, replicas: int, measure: Callable[[MeshClient], Awaitable[None]]
) -> None:
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as directory:
        mesh = start_mesh(Path(directory), "--model", str(model), "--replicas", str(replicas))
        try:
            async with MeshClient(mesh.address) as client:
                await ask(client, prompts(1, 1100, seed=5)[0])
                await measure(client)
        finally:
            stop_mesh(mesh)


async def run(rounds: int) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {"two replicas": [], "look-up": look_up()}

    async def one_replica(client: MeshClient) -> None:
        found["shared prefix"] = await shared_prefix(client, rounds)
        found["conversation"] = await conversation(client, rounds)
        found["two replicas"].append(await shared_workload(client, 1))

    async def two_replicas(client: MeshClient) -> None:
        found["two replicas"].append(await shared_workload(client, 2))

    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as directory:
        model = Path(directory) / MODEL
        write_model(model)
        await on_mesh(model, 1, one_replica)
        await on_mesh(model, 2, two_replicas)
    return found


def print_tables(found: dict[str, list[Row]]) -> None:
    console = Console()
    for title, rows in found.items():
        table = Table(*rows[0], title=title, title_justify="left", box=None)
        for row in rows:
            table.add_row(*(f"{v:,.3f}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the results here too")
    args = parser.parse_args()
    found = asyncio.run(run(args.rounds))
    print_tables(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
