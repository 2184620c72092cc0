"""What a batch of flex requests costs interactive ones, and what it gets beside them.

    .venv/bin/python -m tests.bench.bench_flex [--rounds 6] [--seconds 8]

A batch keeps `IN_FLIGHT` requests at the generation service, as workers do. The sides take turns,
and another one goes first in each round. Light load is one short request after another with pauses;
steady load is several streams that ask again at once, which leave nothing but a share of decode
steps. Verdicts are medians of the rounds' own ratios, so that a round in which the machine was busy
with something else counts once. Each round has a hundred requests or more on each side.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.generation.v1 import generation_pb2 as pb
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_client import MeshClient
from mlxmesh_shared.errors import QueueFull
from mlxmesh_shared.rpc.channels import open_channel
from tests.bench import flex_engine
from tests.bench.results import (
    MODEL_VARIABLE,
    Findings,
    Result,
    Row,
    median_of,
    median_ratio,
    run_alone,
)
from tests.bench.samples import percentile
from tests.bench.serving import Mesh, bench_model, serving

SECONDS = 8.0
ROUNDS = 6
IN_FLIGHT = 96
"""More than an engine runs at once, so that some always wait."""
LIGHT_TOKENS, STEADY_TOKENS = 2, 16
"""New tokens of a request, by load: a light one is over soon, so that there are many."""
BATCH_TOKENS = 64
PROMPT_WORDS = 24
PAUSE_S = 0.05
"""Between two requests of the light load, on average."""
STREAMS = 4
"""Of the steady load."""
SETTLE_S = 1.5
"""A batch has filled the engine, or has left it."""
WANTED_TTFT, WANTED_RATE = 1.10, 0.95
WANTED_BATCH = {"light": 0.4, "steady": 0.03}
"""By load: of what a batch gets alone. Steady streams leave a twentieth of their decode steps."""
WANTED_LEFT = 0.8
"""Of what a batch gets alone, in the CPU time that others leave of an engine."""
POCKET = Path(__file__).parents[2] / "deploy" / "demo-model" / "pocket"


@dataclass
class Seen:
    """What callers saw of one load on one side, in one round."""

    ttft_s: list[float] = field(default_factory=list[float])
    tokens: int = 0
    """After the first one of each request."""
    seconds: float = 0.0
    """From the first to the last token of each request."""
    batch_tokens: int = 0
    batch_s: float = 0.0

    @property
    def ttft_p95_ms(self) -> float:
        return self.ttft_ms(0.95)

    def ttft_ms(self, part: float) -> float:
        return 1e3 * percentile(sorted(self.ttft_s), part) if self.ttft_s else 0.0

    @property
    def rate(self) -> float:
        """Tokens per second of a stream."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def batch_rate(self) -> float:
        return self.batch_tokens / self.batch_s if self.batch_s else 0.0


class Interactive:
    """Requests through the gateway, each with another prompt."""

    def __init__(self, client: MeshClient, model: str) -> None:
        self._client = client
        self._model = model
        self._numbers = itertools.count(1)

    async def ask(self, seen: Seen, new_tokens: int) -> None:
        """One request, streamed to its end."""
        number = next(self._numbers)
        prompt = f"Story {number}. " + "Once upon a time " * (PROMPT_WORDS // 4)
        began_s, first_s, tokens = time.perf_counter(), 0.0, 0
        stream = self._client.generate(
            self._model, prompt=prompt, max_tokens=new_tokens, ignore_eos=True, seed=number
        )
        async with aclosing(stream) as events:
            async for event in events:
                first_s = first_s or (time.perf_counter() if event.token_ids else 0.0)
                tokens += len(event.token_ids)
        seen.ttft_s.append(first_s - began_s)
        seen.tokens += tokens - 1
        seen.seconds += time.perf_counter() - first_s

    async def light(self, seen: Seen, seconds: float) -> None:
        """One request after another, with pauses."""
        end_s = time.perf_counter() + seconds
        for number in itertools.count():
            if time.perf_counter() >= end_s:
                return
            await self.ask(seen, LIGHT_TOKENS)
            # Of different lengths, so that no rhythm of the engine coincides with it.
            await asyncio.sleep(PAUSE_S * (0.5 + (number * 0.618) % 1))

    async def steady(self, seen: Seen, seconds: float) -> None:
        """Streams that ask again at once."""
        end_s = time.perf_counter() + seconds

        async def stream() -> None:
            while time.perf_counter() < end_s:
                await self.ask(seen, STEADY_TOKENS)

        await asyncio.gather(*(stream() for _ in range(STREAMS)))


class Batch:
    """Flex requests at the generation service, as workers send them; it counts their tokens."""

    def __init__(self, stub: GenerationServiceStub, model: str) -> None:
        self._stub = stub
        self._model = model
        self._numbers = itertools.count(1)
        self.tokens = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps requests in flight."""
        tasks = [asyncio.create_task(self._ask_on()) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.sleep(SETTLE_S)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(SETTLE_S)

    async def _ask_on(self) -> None:
        while True:
            try:
                await self._ask()
            except QueueFull as error:
                await asyncio.sleep(error.retry_delay_s or 1.0)

    async def _ask(self) -> None:
        number = next(self._numbers)
        request = pb.GenerateRequest(
            model=self._model,
            prompt=f"Item {number}. " + "There was a little house " * (PROMPT_WORDS // 5),
            max_tokens=BATCH_TOKENS,
            ignore_eos=True,
            sampling=Sampling(seed=number),
            service_tier=pb.SERVICE_TIER_FLEX,
        )
        async for message in self._stub.Generate(request):
            self.tokens += len(message.delta.token_ids)


Load = Callable[[Seen, float], Awaitable[None]]


@dataclass
class Sides:
    """One load alone and beside a batch, by round."""

    alone: list[Seen] = field(default_factory=list[Seen])
    beside: list[Seen] = field(default_factory=list[Seen])


async def measure(load: Load, seconds: float, batch: Batch | None) -> Seen:
    """One load on one side, in one round."""
    seen = Seen()
    if batch is None:
        await load(seen, seconds)
        return seen
    async with batch.running():
        before, began_s = batch.tokens, time.perf_counter()
        await load(seen, seconds)
        seen.batch_tokens += batch.tokens - before
        seen.batch_s += time.perf_counter() - began_s
    return seen


async def by_turns(mesh: Mesh, model: str, rounds: int, seconds: float) -> dict[str, Sides]:
    """Every load on both sides, and the batch alone."""
    channel = open_channel(mesh.addresses["generation"], role="generation")
    async with MeshClient(mesh.address) as client:
        interactive = Interactive(client, model)
        batch = Batch(GenerationServiceStub(channel), model)
        loads: dict[str, Load] = {"light": interactive.light, "steady": interactive.steady}
        for load in loads.values():
            for beside in (None, batch):
                await measure(load, 1.0, beside)
        sides = {name: Sides() for name in (*loads, "none")}
        for turn in range(rounds):
            for name, load in loads.items():
                pair = [(sides[name].alone, None), (sides[name].beside, batch)]
                for seen, beside in pair if turn % 2 else reversed(pair):
                    seen.append(await measure(load, seconds, beside))
            sides["none"].beside.append(await measure(_sleep, seconds, batch))
    await channel.close()
    return sides


async def _sleep(_seen: Seen, seconds: float) -> None:
    await asyncio.sleep(seconds)


def rows_of(sides: dict[str, Sides]) -> list[Row]:
    """A line for each load and side."""
    rows: list[Row] = []
    for load, both in sides.items():
        for name, seen in (("alone", both.alone), ("beside a batch", both.beside)):
            if not seen:
                continue
            times = {
                f"ttft p{round(100 * part)} ms": median_of(seen, partial(Seen.ttft_ms, part=part))
                for part in (0.5, 0.95, 0.99)
            }
            rows.append(
                {
                    "load": load,
                    "side": name,
                    "requests": sum(len(each.ttft_s) for each in seen),
                    **times,
                    "tokens/s": median_of(seen, _rate),
                    "batch tokens/s": median_of(seen, _batch_rate),
                }
            )
    return rows


def results_of(sides: dict[str, Sides]) -> list[Result]:
    """What is wanted of the batch and of those beside it."""
    results: list[Result] = []
    for load, both in sides.items():
        if load not in WANTED_BATCH:
            continue
        ttft = median_ratio(both.beside, both.alone, lambda seen: seen.ttft_p95_ms)
        name = f"of {load} load, with a batch over none"
        results.append(Result(f"TTFT p95 {name}", ttft, WANTED_TTFT, at_least=False))
        if load == "steady":
            rate = median_ratio(both.beside, both.alone, _rate)
            results.append(Result(f"tokens/s {name}", rate, WANTED_RATE))
        none = sides["none"].beside
        part = median_ratio(both.beside, none, _batch_rate)
        results.append(
            Result(f"tokens/s of a batch beside {load} load, over alone", part, WANTED_BATCH[load])
        )
    return results


def results_of_engine(ratios: Mapping[str, float]) -> list[Result]:
    """The same by the CPU time of one engine, where other processes do not count."""
    ttft, left = ratios["ttft_p95"], ratios["of_what_is_left"]
    name = "TTFT p95 in an engine by CPU time, with a batch over none"
    return [
        Result(name, ttft, WANTED_TTFT, at_least=False),
        Result("tokens of a batch by CPU time that others leave, over alone", left, WANTED_LEFT),
    ]


def _rate(seen: Seen) -> float:
    return seen.rate


def _batch_rate(seen: Seen) -> float:
    return seen.batch_rate


def bench(rounds: int, *, seconds: Sequence[float]) -> Findings:
    """All rounds, with the demo model or a real one."""
    with contextlib.ExitStack() as stack:
        real = bool(os.environ.get(MODEL_VARIABLE))
        model = stack.enter_context(bench_model()) if real else POCKET
        of_engine = results_of_engine(flex_engine.measured(model, rounds))
        mesh = stack.enter_context(serving(model))
        sides = asyncio.run(by_turns(mesh, model.name, rounds, seconds[0]))
    return Findings(
        of_engine + results_of(sides), {"interactive requests and a batch": rows_of(sides)}
    )


if __name__ == "__main__":
    run_alone(__doc__, bench, rounds=ROUNDS, seconds=(SECONDS,))
