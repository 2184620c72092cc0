"""Fifty models on a host with room for five: failed calls, hit rate beside LRU's, and swap.

    .venv/bin/python -m tests.bench.bench_on_demand [--seconds 600] [--callers 4] [--json FILE]

The models are copies of pocket-mini under other names, registered and never loaded by a command;
the engines are simulated. The room is `[model] max_engines_per_runtime`, so that it is the same on
every machine. Each caller asks for a model drawn by Zipf's law, waits for the answer, and asks
again. A call misses when its model has to be loaded for it; the same calls in the same order are
given to an LRU cache of five, and to the best that any cache could do (Belady's).
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import MeshError
from tests.bench.results import Findings, Result, Row, run_alone
from tests.bench.serving import Mesh, simulated

MODELS, ROOM = 50, 5
EXPONENT = 1.1
TOKENS = 16
CALL_TIMEOUT_S = 250.0
MAX_BELOW_LRU = 0.05
POCKET_MINI = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket-mini"


@dataclass
class Trace:
    """What callers asked for, in order, and what came of it."""

    names: list[str] = field(default_factory=list[str])
    seconds: list[float] = field(default_factory=list[float])
    failures: list[str] = field(default_factory=list[str])
    loads: int = 0

    @property
    def hit_rate(self) -> float:
        """The part of the calls for which nothing was loaded."""
        return 1 - self.loads / len(self.names)


def lru_hit_rate(names: Sequence[str], room: int) -> float:
    """That of a cache that drops the least recently used name."""
    cached, hits = OrderedDict[str, None](), 0
    for name in names:
        hits += name in cached
        cached[name] = None
        cached.move_to_end(name)
        if len(cached) > room:
            cached.popitem(last=False)
    return hits / len(names)


def best_hit_rate(names: Sequence[str], room: int) -> float:
    """That of Belady's cache, which drops the name that is needed again the latest."""
    next_use = [len(names)] * len(names)
    seen: dict[str, int] = {}
    for place in range(len(names) - 1, -1, -1):
        next_use[place] = seen.get(names[place], len(names))
        seen[names[place]] = place
    cached: dict[str, int] = {}
    hits = 0
    for place, name in enumerate(names):
        hits += name in cached
        cached[name] = next_use[place]
        if len(cached) > room:
            del cached[max(cached, key=cached.__getitem__)]
    return hits / len(names)


@contextmanager
def models() -> Iterator[Sequence[Path]]:
    """The directories of all models."""
    with tempfile.TemporaryDirectory(prefix="mlxmesh-bench-") as folder:
        made = [Path(folder) / f"model-{number:02}" for number in range(MODELS)]
        for directory in made:
            shutil.copytree(POCKET_MINI, directory)
        yield made


async def _caller(client: MeshClient, trace: Trace, draw: random.Random, until_s: float) -> None:
    names = [f"model-{number:02}" for number in range(MODELS)]
    weights = [1 / rank**EXPONENT for rank in range(1, MODELS + 1)]
    while time.monotonic() < until_s:
        [name] = draw.choices(names, weights)
        trace.names.append(name)
        started_s = time.monotonic()
        try:
            await client.complete(
                name, prompt="Hi there", max_tokens=TOKENS, timeout_s=CALL_TIMEOUT_S
            )
        except MeshError as error:
            trace.failures.append(f"{name}: {error.reason} {error.message}")
        trace.seconds.append(time.monotonic() - started_s)


async def _count_loads(client: MeshClient, trace: Trace) -> None:
    async for message in client.watch_events():
        event = message.event
        if event.HasField("model_loaded") and event.model_loaded.model.startswith("model-"):
            trace.loads += 1


async def ask(mesh: Mesh, directories: Sequence[Path], seconds: float, callers: int) -> Trace:
    """All calls of all callers."""
    trace = Trace()
    async with MeshClient(mesh.address) as client:
        for directory in directories:
            await client.register_model(name=directory.name, directory=str(directory))
        counting = asyncio.create_task(_count_loads(client, trace))
        until_s = time.monotonic() + seconds
        await asyncio.gather(
            *(_caller(client, trace, random.Random(seed), until_s) for seed in range(callers))
        )
        await asyncio.sleep(2)  # until the last events are here
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
    return trace


def measure(rounds: int, seconds: Sequence[float], callers: Sequence[int]) -> Findings:
    """One run; more rounds would only be a longer one."""
    os.environ["MLXMESH_MODEL_MAX_ENGINES_PER_RUNTIME"] = str(ROOM)
    swap_before = psutil.swap_memory().used
    with models() as directories, simulated(POCKET_MINI) as mesh:
        trace = asyncio.run(ask(mesh, directories, seconds[0] * rounds, callers[0]))
    swapped = psutil.swap_memory().used - swap_before
    lru = lru_hit_rate(trace.names, ROOM)
    ordered = sorted(trace.seconds)
    row: Row = {
        "calls": len(trace.names),
        "failed": len(trace.failures),
        "loads": trace.loads,
        "hit rate": trace.hit_rate,
        "LRU's": lru,
        "best possible": best_hit_rate(trace.names, ROOM),
        "median s": ordered[len(ordered) // 2],
        "p99 s": ordered[int(len(ordered) * 0.99)],
        "longest s": ordered[-1],
        "swap MB": swapped / 1e6,
    }
    results = [
        Result("failed calls", len(trace.failures), 0, "calls", at_least=False),
        Result("hit rate", trace.hit_rate, lru - MAX_BELOW_LRU),
        Result("swap used more", swapped / 1e6, 0, "MB", at_least=False),
    ]
    tables: dict[str, Sequence[Row]] = {f"{MODELS} models, room for {ROOM}": [row]}
    if trace.failures:
        tables["failures"] = [{"call": failure} for failure in trace.failures[:20]]
    return Findings(results, tables)


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=1, seconds=(600.0,), callers=(4,))
