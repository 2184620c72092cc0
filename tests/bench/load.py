"""A load of streams on a mesh, and what it cost: tokens, messages, and CPU time by process."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import psutil
from grpc import aio

from mlxmesh.common.v1.sampling_pb2 import Sampling
from mlxmesh.engine.v1.engine_pb2 import ExecuteRequest, ExecuteResponse, Submit
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh.generation.v1.generation_pb2 import (
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    TokenInput,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import open_channel
from tests.bench.bench_model import prompts
from tests.bench.results import Row, median_of
from tests.bench.samplers import Settings, greedy
from tests.bench.samples import percentile
from tests.bench.serving import MESH, MODEL

CLIENT = "client"
"""This process, among those whose CPU time is read."""


@dataclass
class Outcome:
    """What one stream saw."""

    tokens: int = 0
    messages: int = 0
    first_s: float = 0.0
    longest_gap_s: float = 0.0
    error: MeshError | None = None


@dataclass(frozen=True)
class Run:
    """What all streams of one load saw, and the CPU seconds that each process spent on it."""

    wall_s: float
    outcomes: list[Outcome]
    cpu_s: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def tokens(self) -> int:
        return sum(outcome.tokens for outcome in self.outcomes)

    @property
    def messages(self) -> int:
        return sum(outcome.messages for outcome in self.outcomes)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.wall_s

    def raise_failure(self) -> None:
        """Raises the first error that a stream ended with."""
        for outcome in self.outcomes:
            if outcome.error is not None:
                raise outcome.error

    def cpu_us_per_message(self, *processes: str) -> float:
        return 1e6 * sum(self.cpu_s[name] for name in processes) / self.messages


def cost_row(key: Row, runs: Sequence[Run]) -> Row:
    """Medians of the rounds of one load, named by `key`; "us" are those of CPU a message.

    Raises a stream's error where a whole round brought nothing.
    """

    def cpu_us(process: str) -> float:
        return median_of(runs, lambda run: run.cpu_us_per_message(process))

    for run in runs:
        if not run.messages:
            run.raise_failure()
    outcomes = [outcome for run in runs for outcome in run.outcomes]
    failed = [outcome.error for outcome in outcomes if outcome.error]
    firsts = sorted(outcome.first_s for outcome in outcomes if outcome.messages)
    return {
        **key,
        "tokens/s": median_of(runs, lambda run: run.tokens_per_second),
        "at 2 cores": median_of(runs, lambda run: 2 * run.tokens / sum(run.cpu_s.values())),
        "per message": median_of(runs, lambda run: run.tokens / run.messages),
        **{f"{process} us": cpu_us(process) for process in (*MESH, CLIENT)},
        "ttft p50 ms": 1e3 * percentile(firsts, 0.5),
        "ttft p99 ms": 1e3 * percentile(firsts, 0.99),
        "max gap ms": 1e3 * max(outcome.longest_gap_s for outcome in outcomes),
        "failed": len(failed),
        "no RetryInfo": sum(error.retry_delay_s is None for error in failed),
    }


def cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """User and system seconds that each process has spent so far; this one is the client."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    times[CLIENT] = psutil.Process().cpu_times()
    return {name: each.user + each.system for name, each in times.items()}


def memory_bytes(pids: Mapping[str, int]) -> int:
    """Memory that belongs to the processes alone."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids.values())


class Load:
    """Streams from this process to one gateway, their prompts never seen before.

    Use as an async context.
    """

    def __init__(self, address: str, pids: Mapping[str, int], *, connections: int = 1) -> None:
        self._channels = [open_channel(address) for _ in range(connections)]
        self._stubs = [GenerationServiceStub(channel) for channel in self._channels]
        self._pids = pids
        self._seeds = itertools.count(1)

    async def __aenter__(self) -> Load:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def run(
        self,
        streams: int,
        *,
        new_tokens: int,
        prompt_tokens: int = 64,
        sampler: Callable[[int], Settings] = greedy,
    ) -> Run:
        """All streams at once, each read as fast as its messages come."""
        requests = [
            self._request(ids, new_tokens, sampler(number))
            for number, ids in enumerate(prompts(streams, prompt_tokens, seed=next(self._seeds)), 1)
        ]
        before, started_s = cpu_s(self._pids), time.perf_counter()
        outcomes = await asyncio.gather(*map(self._stream, itertools.count(), requests))
        wall_s, after = time.perf_counter() - started_s, cpu_s(self._pids)
        return Run(wall_s, outcomes, {name: after[name] - before[name] for name in after})

    async def first_token_s(self, prompt_tokens: int) -> float:
        """How long one stream's first token takes; reads it to its end."""
        run = await self.run(1, new_tokens=2, prompt_tokens=prompt_tokens)
        run.raise_failure()
        return run.outcomes[0].first_s

    async def _stream(self, number: int, request: GenerateRequest) -> Outcome:
        """One stream to its end, or to its error."""
        outcome, last_s = Outcome(), time.perf_counter()
        started_s = last_s
        try:
            async for response in self._call(number, request):
                now_s = time.perf_counter()
                if response.HasField("delta"):
                    outcome.first_s = outcome.first_s or now_s - started_s
                    outcome.tokens += len(response.delta.token_ids)
                    outcome.messages += 1
                    if outcome.messages > 1:
                        outcome.longest_gap_s = max(outcome.longest_gap_s, now_s - last_s)
                    last_s = now_s
        except MeshError as error:
            outcome.error = error
        return outcome

    async def count_tokens_s(self, text: str) -> float:
        """How long one CountTokens takes."""
        started_s = time.perf_counter()
        await self._stubs[0].CountTokens(CountTokensRequest(model=MODEL, prompt=text))
        return time.perf_counter() - started_s

    def _call(self, number: int, request: GenerateRequest) -> AsyncIterator[GenerateResponse]:
        return aiter(self._stubs[number % len(self._stubs)].Generate(request))

    @staticmethod
    def _request(ids: Sequence[int], new_tokens: int, settings: Settings) -> GenerateRequest:
        return GenerateRequest(
            model=MODEL,
            tokens=TokenInput(token_ids=ids),
            max_tokens=new_tokens,
            sampling=Sampling(**settings),
            ignore_eos=True,
        )


class DirectEngine:
    """The engine's own stream, without the mesh; use as an async context."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._next_id = 1

    async def __aenter__(self) -> DirectEngine:
        self._call: aio.StreamStreamCall = EngineServiceStub(self._channel).Execute()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def first_token_s(self, prompt_tokens: int) -> float:
        """How long one sequence's first token takes; reads it to its end."""
        submit = Submit(
            sequence_id=self._next_id,
            prompt_token_ids=prompts(1, prompt_tokens, seed=self._next_id)[0],
            max_tokens=2,
            ignore_eos=True,
        )
        self._next_id += 1
        started_s, first_s = time.perf_counter(), 0.0
        await self._call.write(ExecuteRequest(submit=submit))
        while True:
            response = await self._call.read()
            if not isinstance(response, ExecuteResponse):
                raise RuntimeError("the engine ended the stream")
            for output in response.outputs:
                if output.token_ids:
                    first_s = first_s or time.perf_counter() - started_s
                if output.finish_reason:
                    return first_s
