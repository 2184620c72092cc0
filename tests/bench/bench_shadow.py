"""What shadowing costs the primary: all requests repeated at another version, beside none.

    .venv/bin/python -m tests.bench.bench_shadow [--rounds 6] [--seconds 10]

Both versions have the same weights and one host. The sides take turns, and another goes first in
each round. With room, the host is idle between requests; without, streams follow each other.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from mlxmesh_client import MeshClient
from tests.bench.results import Findings, Result, Row, run_alone
from tests.bench.samples import percentile
from tests.chaos.mesh import ChaosMesh, Shape, running

POCKET = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket"
SECONDS = 10.0
NEW_TOKENS = 32
PROMPT_WORDS = 100
INTERVAL_S = 0.5
"""Between the starts of requests, with room."""
STREAMS = 4
"""Without room: each asks again at once."""
PRIMARY = "pocket@1"
SETTLED_S = 1.0
WANTED_TTFT, WANTED_TOKENS = 1.05, 0.95


@dataclass
class Side:
    """What the primary's callers saw, with or without shadowing, in all rounds."""

    ttft_s: list[float] = field(default_factory=list[float])
    tokens: int = 0
    """After the first one of each request."""
    seconds: float = 0.0
    """From the first to the last token of each request."""
    compared: int = 0
    equal: int = 0
    dropped: int = 0

    @property
    def tokens_per_second(self) -> float:
        """Of a stream, after its first token."""
        return self.tokens / self.seconds

    def row(self, room: str, shadowing: str) -> Row:
        return {
            "room": room,
            "shadowing": shadowing,
            "requests": len(self.ttft_s),
            "ttft p50 ms": 1e3 * percentile(sorted(self.ttft_s), 0.5),
            "ttft p99 ms": 1e3 * percentile(sorted(self.ttft_s), 0.99),
            "tokens/s": self.tokens_per_second,
            "compared": self.compared,
            "equal": self.equal,
            "dropped": self.dropped,
        }


class Primary:
    """Asks version 1, each time with another prompt."""

    def __init__(self, client: MeshClient) -> None:
        self._client = client
        self._asked = 0

    async def ask(self, side: Side) -> None:
        self._asked += 1
        prompt = f"Story {self._asked}. " + "Once upon a time " * (PROMPT_WORDS // 4)
        began_s, first_s, tokens = time.perf_counter(), 0.0, 0
        stream = self._client.generate(
            PRIMARY, prompt=prompt, max_tokens=NEW_TOKENS, ignore_eos=True, seed=self._asked
        )
        async with aclosing(stream) as events:
            async for event in events:
                first_s = first_s or (time.perf_counter() if event.token_ids else 0.0)
                tokens += len(event.token_ids)
        side.ttft_s.append(first_s - began_s)
        side.tokens += tokens - 1
        side.seconds += time.perf_counter() - first_s

    async def with_room(self, side: Side, seconds: float) -> None:
        """One request at a time, with idle moments between them."""
        end_s = time.perf_counter() + seconds
        while (began_s := time.perf_counter()) < end_s:
            await self.ask(side)
            await asyncio.sleep(max(0.0, began_s + INTERVAL_S - time.perf_counter()))

    async def without(self, side: Side, seconds: float) -> None:
        """Several streams, without a moment between the requests of each."""
        end_s = time.perf_counter() + seconds

        async def stream() -> None:
            while time.perf_counter() < end_s:
                await self.ask(side)

        await asyncio.gather(*(stream() for _ in range(STREAMS)))


async def add_version(mesh: ChaosMesh) -> None:
    """Version 2: the same weights as version 1, loaded too."""
    copy = mesh.data_dir / "copy"
    await asyncio.to_thread(shutil.copytree, POCKET, copy)
    config = copy / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "copy": True}))
    for words in (("register", str(copy), "--name", "pocket"), ("load", "pocket@2")):
        code, output = await mesh.mlxmesh(*words, timeout_s=120)
        if code:
            raise RuntimeError(output)


Load = Callable[[Side, float], Awaitable[None]]


async def shadowed(client: MeshClient, side: Side, load: Load, seconds: float) -> None:
    """Runs a load while everything is repeated, and notes what was compared."""
    started = await client.start_shadow("pocket", to_version=2, percent=100)
    await asyncio.sleep(SETTLED_S)
    await load(side, seconds)
    await asyncio.sleep(SETTLED_S)
    await client.stop_shadow(started.shadow_id)
    await asyncio.sleep(2 * SETTLED_S)
    report = await client.get_shadow_report(started.shadow_id, pairs=0)
    side.compared += report.compared
    side.equal += report.equal
    side.dropped += sum(report.drops.values())


async def by_turns(rounds: int, seconds: float) -> dict[str, tuple[Side, Side]]:
    """Both sides by room: with shadowing, and without."""
    found = {"yes": (Side(), Side()), "none": (Side(), Side())}
    async with running(Shape(replicas=1, models=(str(POCKET),), environment={})) as mesh:
        await add_version(mesh)
        async with MeshClient(mesh.address) as client:
            primary = Primary(client)
            await primary.without(Side(), 1)
            for number in range(rounds):
                for room, load in (("yes", primary.with_room), ("none", primary.without)):
                    on, off = found[room]
                    for shadowing in (True, False) if number % 2 else (False, True):
                        if shadowing:
                            await shadowed(client, on, load, seconds)
                        else:
                            await load(off, seconds)
    return found


def measure(rounds: int, *, seconds: Sequence[float]) -> Findings:
    """All rounds."""
    found = asyncio.run(by_turns(rounds, seconds[0]))
    rows: list[Row] = []
    results: list[Result] = []
    for room, (on, off) in found.items():
        rows += [off.row(room, "0 %"), on.row(room, "100 %")]
        where = "with room" if room == "yes" else "without room"
        ttft = percentile(sorted(on.ttft_s), 0.99) / percentile(sorted(off.ttft_s), 0.99)
        speed = on.tokens_per_second / off.tokens_per_second
        results += [
            Result(f"TTFT p99 {where}, 100 % over 0 %", ttft, WANTED_TTFT, at_least=False),
            Result(f"tokens/s {where}, 100 % over 0 %", speed, WANTED_TOKENS),
        ]
    on, _ = found["yes"]
    equal = on.equal / on.compared if on.compared else 0.0
    results.append(Result("equal answers of equal weights", equal, 1.0))
    return Findings(results, {"the primary, with and without shadowing": rows})


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=6, seconds=(SECONDS,))
