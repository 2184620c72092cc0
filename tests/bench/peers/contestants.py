"""The servers under measurement behind one shape: so many streams at once, one sample."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxmesh_client import MeshClient
from tests.bench.peers.completions import Prompt, complete
from tests.bench.peers.install import PeerFailed
from tests.bench.peers.report import Measured
from tests.bench.samples import Sample

MEASURE_LIMIT_S = 60.0


@dataclass(frozen=True)
class Streamed:
    """One finished stream."""

    tokens: int
    chunks: int
    """Messages that carried text."""
    first_at_s: float
    """When the first text was read, by time.perf_counter."""


Stream = Callable[[Prompt], Awaitable[Streamed]]
"""Asks for one prompt and reads to the end."""
Measure = Callable[[Sequence[Prompt], int], Awaitable[Sample]]
"""Measures with these prompts at once; the number is a seed for who makes its own prompts."""


@dataclass
class Contestant:
    """One server in one variant, and what it has shown."""

    name: str
    variant: str
    measure: Measure | None
    samples: dict[int, list[Sample]] = field(default_factory=dict)
    failure: str = ""
    limit_s: float = MEASURE_LIMIT_S
    """How long one measurement may take."""

    async def take_turn(self, prompts: Sequence[Prompt], seed: int, *, keep: bool = True) -> None:
        """Measure once more; a failure takes it out of the run, with the reason."""
        if self.measure is None:
            return
        try:
            async with asyncio.timeout(self.limit_s):
                sample = await self.measure(prompts, seed)
        except (OSError, PeerFailed) as error:  # a TimeoutError is an OSError
            said = str(error) or f"no end within {self.limit_s:.0f} s"
            self.failure = f"at {len(prompts)} streams: {said}"
            self.measure = None
            return
        if keep:
            self.samples.setdefault(len(prompts), []).append(sample)

    def measured(self) -> Measured:
        """All of it, for the report."""
        return Measured(self.name, self.variant, self.samples, self.failure)


def peer(
    port: int,
    model: str,
    *,
    prompt_tokens: int,
    new_tokens: int,
    extra: Mapping[str, Any] | None = None,
) -> Measure:
    """A peer's completions; every stream must have done the whole work."""

    async def stream(prompt: Prompt) -> Streamed:
        done = await complete(port, model, prompt, new_tokens=new_tokens, extra=extra)
        if (done.prompt_tokens, done.tokens) != (prompt_tokens, new_tokens):
            raise PeerFailed(
                f"{done.prompt_tokens} + {done.tokens} tokens where "
                f"{prompt_tokens} + {new_tokens} were asked for"
            )
        return Streamed(done.tokens, done.chunks, done.first_at_s)

    return _all_at_once(stream)


def mesh(client: MeshClient, model: str, *, new_tokens: int) -> Measure:
    """The mesh, asked as the peers are, through its gateway."""

    async def stream(prompt: Prompt) -> Streamed:
        tokens, chunks, first_at_s = 0, 0, 0.0
        asked: dict[str, Any] = (
            {"prompt": prompt} if isinstance(prompt, str) else {"token_ids": prompt}
        )
        async for event in client.generate(model, **asked, max_tokens=new_tokens, ignore_eos=True):
            if event.text:
                chunks += 1
                first_at_s = first_at_s or time.perf_counter()
            tokens += len(event.token_ids)
        assert tokens == new_tokens, "the mesh came up short"
        assert chunks, "the mesh sent no text"
        return Streamed(tokens, chunks, first_at_s)

    return _all_at_once(stream)


def _all_at_once(stream: Stream) -> Measure:
    async def measure(prompts: Sequence[Prompt], _seed: int) -> Sample:
        start_s = time.perf_counter()
        results = await asyncio.gather(*map(stream, prompts))
        seconds = time.perf_counter() - start_s
        return Sample(
            sum(each.tokens for each in results) / seconds,
            sorted(each.first_at_s - start_s for each in results),
            sum(each.chunks for each in results),
        )

    return measure
