"""A mixed load on every edge of a mesh, as of many different users, and how their calls went."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import aiohttp

from mlxmesh_client import MeshClient
from mlxmesh_client.request import generate_request
from mlxmesh_shared.errors import MeshError
from tests.bench.samples import percentile
from tests.chaos.clients import WORDS, status_of
from tests.chaos.history import OK

MODEL, ENCODER = "pocket", "soak-encoder"
TIMEOUT_S = 60.0
SLOW_READ_S, LIVE_S = 0.2, 30.0
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
TOPICS = ("mesh", "models", "events", "requests", "jobs", "system")


class Refused(Exception):
    """An HTTP edge answered with an error status."""


class Call:
    """One call under way: when it began, and when its first output came."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self.first_s: float | None = None

    def output(self) -> None:
        """Some output came."""
        if self.first_s is None:
            self.first_s = time.monotonic() - self._began_s


class MixedLoad:
    """Runs from entering to leaving the context; each kind of call goes on by itself."""

    def __init__(self, address: str, http: str, *, pause_s: float, seed: int) -> None:
        """pause_s: the mean time between two calls of a kind."""
        self.ends: Counter[tuple[str, str]] = Counter()
        """How many calls ended how, by kind and status."""
        self._address = address
        self._http = f"http://{http}"
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._since: defaultdict[str, list[float]] = defaultdict(list)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> MixedLoad:
        self._mesh = MeshClient(self._address, timeout_s=TIMEOUT_S, attempts=1)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        self._session = aiohttp.ClientSession(self._http, timeout=timeout)
        kinds: dict[str, Callable[[Call, int], Awaitable[None]]] = {
            "chat": self._chat,
            "structured": self._structured,
            "several outputs": self._several,
            "embedding": self._embed,
            "job": self._job,
            "cancelled": self._cancelled,
            "slow reader": self._slow_reader,
            "live": self._live,
            "openai": self._openai,
            "anthropic": self._anthropic,
            "kserve": self._kserve,
            "connect": self._connect,
        }
        self._tasks = [
            asyncio.create_task(self._go_on(name, call), name=name) for name, call in kinds.items()
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        await self._mesh.close()
        for error in ended:
            if isinstance(error, Exception):  # no call failed: this load is wrong
                raise error

    def taken(self) -> Mapping[str, Any]:
        """Times to the first output since the last time, by kind, and all ends so far."""
        since, self._since = self._since, defaultdict(list)
        found = {
            kind: {
                "calls": len(times),
                "first_p50_ms": 1e3 * percentile(sorted(times), 0.5),
                "first_p99_ms": 1e3 * percentile(sorted(times), 0.99),
            }
            for kind, times in since.items()
        }
        failed = sum(count for (_, status), count in self.ends.items() if status != OK)
        return {"first_output": found, "calls": self.ends.total(), "failed": failed}

    async def _go_on(self, kind: str, make: Callable[[Call, int], Awaitable[None]]) -> None:
        while True:
            call, status = Call(), OK
            try:
                async with asyncio.timeout(TIMEOUT_S + 5):
                    await make(call, next(self._numbers))
            except MeshError as error:
                status = status_of(error)
            except (Refused, aiohttp.ClientError, TimeoutError) as error:
                status = f"{type(error).__name__}: {error}"[:80]
            self.ends[kind, status] += 1
            if status is OK and call.first_s is not None:
                self._since[kind].append(call.first_s)
            await asyncio.sleep(self._random.uniform(0, 2 * self._pause_s))

    # By gRPC.

    async def _chat(self, call: Call, number: int) -> None:
        # Long and short conversations; some of them share their beginning.
        turns = [("user", WORDS[number % len(WORDS)] * (1 + number % 30)), ("assistant", "Yes.")]
        messages = [*turns * (number % 3), ("user", f"Tell me about {number}.")]
        events = self._mesh.generate(
            MODEL, messages=messages, max_tokens=60, temperature=0.8, seed=number, ignore_eos=True
        )
        async with aclosing(events) as reading:
            async for _ in reading:
                call.output()

    async def _structured(self, call: Call, number: int) -> None:
        # Few schemas come again, and every fourth one is new: the engine's cache must evict.
        schema = {**SCHEMA, "title": f"s{number if number % 4 == 0 else number % 3}"}
        await self._mesh.complete(MODEL, prompt="Someone:", max_tokens=80, json_schema=schema)
        call.output()

    async def _several(self, call: Call, number: int) -> None:
        await self._mesh.complete(
            MODEL, prompt=f"Twice {number}", max_tokens=20, n=2, logprobs=2, temperature=1.0
        )
        call.output()

    async def _embed(self, call: Call, number: int) -> None:
        await self._mesh.embed(ENCODER, ["the quick fox"] * (1 + number % 16), truncate=True)
        call.output()

    async def _job(self, call: Call, number: int) -> None:
        request = generate_request(MODEL, {"prompt": f"Job {number}:", "max_tokens": 20})
        job = await self._mesh.jobs.submit_generation(request, retention_s=60)
        call.output()
        await self._mesh.jobs.wait(job.job_id)

    async def _cancelled(self, call: Call, number: int) -> None:
        events = self._mesh.generate(
            MODEL, prompt=f"Stop {number}", max_tokens=400, ignore_eos=True
        )
        left = 1 + number % 8
        async with aclosing(events) as reading:
            async for _ in reading:
                call.output()
                left -= 1
                if not left:
                    return

    async def _slow_reader(self, call: Call, number: int) -> None:
        events = self._mesh.generate(
            MODEL, prompt=f"Slowly {number}", max_tokens=100, ignore_eos=True
        )
        async with aclosing(events) as reading:
            async for _ in reading:
                call.output()
                await asyncio.sleep(SLOW_READ_S)

    async def _live(self, call: Call, number: int) -> None:
        watching = self._mesh.live.watch(TOPICS, timeout_s=TIMEOUT_S)
        until_s = time.monotonic() + LIVE_S
        async with aclosing(watching) as reading:
            async for _ in reading:
                call.output()
                if time.monotonic() > until_s:
                    return

    # By HTTP.

    async def _openai(self, call: Call, number: int) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Hello {number}"}],
            "max_tokens": 40,
            "stream": number % 2 == 0,
        }
        await self._post(call, "/v1/chat/completions", body)

    async def _anthropic(self, call: Call, number: int) -> None:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"Hello {number}"}],
            "max_tokens": 40,
            "stream": number % 2 == 0,
        }
        await self._post(call, "/v1/messages", body, {"anthropic-version": "2023-06-01"})

    async def _kserve(self, call: Call, number: int) -> None:
        await self._post(
            call, f"/v2/models/{MODEL}/generate", {"text_input": f"{number}", "max_tokens": 20}
        )

    async def _connect(self, call: Call, number: int) -> None:
        path = "/mlxmesh.generation.v1.GenerationService/CountTokens"
        await self._post(call, path, {"model": MODEL, "prompt": f"How many {number}?"})

    async def _post(
        self,
        call: Call,
        path: str,
        body: Mapping[str, Any],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        async with self._session.post(path, json=body, headers=headers) as answer:
            if answer.status != 200:
                raise Refused(f"{path} {answer.status}")
            async for _ in answer.content.iter_any():
                call.output()
