"""A load of streams on a mesh, and what it cost: tokens, messages, and CPU time by process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import psutil
from grpc import aio

from mlxmesh.engine.v1.engine_pb2 import ExecuteRequest, ExecuteResponse, Submit
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh.generation.v1.generation_pb2 import (
    CountTokensRequest,
    GenerateRequest,
    GenerateResponse,
    TokenInput,
)
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.channels import open_channel
from mlxmesh_shared.errors import MeshError

MODEL = "bench"


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

    def cpu_us_per_message(self, *processes: str) -> float:
        return 1e6 * sum(self.cpu_s[name] for name in processes) / self.messages


def cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    """User and system seconds that each process has spent so far; this one is the client."""
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    times["client"] = psutil.Process().cpu_times()
    return {name: each.user + each.system for name, each in times.items()}


def memory_bytes(pids: Mapping[str, int]) -> int:
    """Memory that belongs to the processes alone."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in pids.values())


class Load:
    """Streams from this process to one gateway; use as an async context."""

    def __init__(self, address: str, pids: Mapping[str, int], *, connections: int = 1) -> None:
        self._channels = [open_channel(address) for _ in range(connections)]
        self._stubs = [GenerationServiceStub(channel) for channel in self._channels]
        self._pids = pids

    async def __aenter__(self) -> Load:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def run(self, streams: int, *, new_tokens: int, prompt_tokens: int = 64) -> Run:
        """All streams at once, each read as fast as its messages come."""
        before, started_s = cpu_s(self._pids), time.perf_counter()
        outcomes = await asyncio.gather(
            *(self.stream(number, new_tokens, prompt_tokens) for number in range(streams))
        )
        wall_s, after = time.perf_counter() - started_s, cpu_s(self._pids)
        return Run(wall_s, outcomes, {name: after[name] - before[name] for name in after})

    async def stream(self, number: int, new_tokens: int, prompt_tokens: int) -> Outcome:
        """One stream to its end, or to its error."""
        outcome, last_s = Outcome(), time.perf_counter()
        started_s = last_s
        try:
            async for response in self._call(number, new_tokens, prompt_tokens):
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

    def _call(
        self, number: int, new_tokens: int, prompt_tokens: int
    ) -> AsyncIterator[GenerateResponse]:
        prompt = TokenInput(token_ids=_prompt(number, prompt_tokens))
        request = GenerateRequest(
            model=MODEL, tokens=prompt, max_tokens=new_tokens, ignore_eos=True
        )
        return aiter(self._stubs[number % len(self._stubs)].Generate(request))


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
        started_s, first_s = time.perf_counter(), 0.0
        submit = Submit(
            sequence_id=self._next_id,
            prompt_token_ids=_prompt(self._next_id, prompt_tokens),
            max_tokens=2,
            ignore_eos=True,
        )
        self._next_id += 1
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


def _prompt(number: int, tokens: int) -> list[int]:
    return [1 + (number * 7 + position) % 4000 for position in range(tokens)]
