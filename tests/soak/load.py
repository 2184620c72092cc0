"""A mixed load on every edge of a mesh, as of many different users, and how their calls went.

Each call has one gateway, and the others for when that is lost: streams of MeshClient and of
OpenAI's API resume there, other calls are repeated there, with the same id where they have one.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from mlxmesh.job.v1.job_pb2 import JOB_STATE_COMPLETED, JobState
from mlxmesh_client import MeshClient
from mlxmesh_client.generations import is_gateway_loss
from mlxmesh_client.request import generate_request
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.tls import CertificateFiles
from tests.bench.samples import percentile
from tests.chaos.clients import ATTACH_PAUSE_S, WORDS, status_of
from tests.chaos.history import OK
from tests.chaos.scenarios.streams import http_of
from tests.chaos.sse_clients import CHAT, SseReader
from tests.fakes.certificates import client_context

MODEL, ENCODER = "pocket", "soak-encoder"
TIMEOUT_S = 60.0
SLOW_READ_S, LIVE_S = 0.2, 30.0
ATTEMPTS = 3
RESUMED = ("chat", "cancelled", "slow reader")
"""What MeshClient resumes by itself, so that it is not repeated here."""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}
TOPICS = ("mesh", "models", "events", "requests", "jobs", "system")


def chat_body(number: int) -> dict[str, Any]:
    """What OpenAI's and Anthropic's APIs are asked; every other answer is streamed."""
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Hello {number}"}],
        "max_tokens": 40,
        "stream": number % 2 == 0,
    }


class Refused(Exception):
    """An HTTP edge answered with an error, or a job did not complete."""


class Edge(NamedTuple):
    """How a gateway is reached, with the others for when it is lost."""

    mesh: MeshClient
    https: Sequence[str]
    """HTTP addresses, its own first."""


class Call:
    """One call under way: through which gateway, when it began, and when its first output came."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self._began_s = time.monotonic()
        self.first_s: float | None = None

    def output(self, at_s: float | None = None) -> None:
        """Some output came, by default now."""
        if self.first_s is None:
            self.first_s = (at_s or time.monotonic()) - self._began_s


class MixedLoad:
    """Runs from entering to leaving the context; each kind of call goes on by itself."""

    def __init__(
        self, gateways: Sequence[Instance], *, tls_dir: Path | None, pause_s: float, seed: int
    ) -> None:
        """pause_s: the mean time between two calls of a kind."""
        self.ends: Counter[tuple[str, str]] = Counter()
        """How many calls ended how, by kind and status."""
        self.repeated: Counter[str] = Counter()
        """How often a call was repeated, or an event stream resumed, by kind."""
        self._gateways = gateways
        self._tls_dir = tls_dir
        self._pause_s = pause_s
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._since: defaultdict[str, list[float]] = defaultdict(list)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> MixedLoad:
        tls_dir = self._tls_dir
        files = CertificateFiles.of_role(tls_dir, "admin") if tls_dir else None
        self._tls = client_context(tls_dir, "admin") if tls_dir else None
        self._edges = [self._edge(number, files) for number in range(len(self._gateways))]
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            connector=aiohttp.TCPConnector(ssl=self._tls or True),
        )
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
        await asyncio.gather(*(edge.mesh.close() for edge in self._edges))
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
            first, status = self._random.randrange(len(self._edges)), OK
            call = Call(self._edges[first])
            try:
                async with asyncio.timeout(TIMEOUT_S + 5):
                    await self._make(kind, make, call, next(self._numbers))
            except MeshError as error:
                status = status_of(error)
            except (Refused, aiohttp.ClientError, TimeoutError) as error:
                status = f"{type(error).__name__}: {error}"[:80]
            self.ends[kind, status] += 1
            if status is OK and call.first_s is not None:
                self._since[kind].append(call.first_s)
            await asyncio.sleep(self._random.uniform(0, 2 * self._pause_s))

    def _edge(self, first: int, tls: CertificateFiles | None) -> Edge:
        gateways = [*self._gateways[first:], *self._gateways[:first]]
        address, *others = [one.address for one in gateways]
        mesh = MeshClient(address, gateways=others, timeout_s=TIMEOUT_S, attempts=1, tls=tls)
        return Edge(mesh, [http_of(one) for one in gateways])

    async def _make(
        self, kind: str, make: Callable[[Call, int], Awaitable[None]], call: Call, number: int
    ) -> None:
        """Makes a call, and repeats it through the next gateway when one is lost."""
        left = 0 if kind in RESUMED else ATTEMPTS - 1
        while True:
            try:
                return await make(call, number)
            except (MeshError, aiohttp.ClientError) as error:
                if not left or (isinstance(error, MeshError) and not is_gateway_loss(error)):
                    raise
            left -= 1
            self.repeated[kind] += 1
            call.edge = self._edges[self._edges.index(call.edge) - 1]
            await asyncio.sleep(ATTACH_PAUSE_S)

    # By gRPC.

    async def _chat(self, call: Call, number: int) -> None:
        # Long and short conversations; some of them share their beginning.
        turns = [("user", WORDS[number % len(WORDS)] * (1 + number % 30)), ("assistant", "Yes.")]
        messages = [*turns * (number % 3), ("user", f"Tell me about {number}.")]
        events = call.edge.mesh.generate(
            MODEL, messages=messages, max_tokens=60, temperature=0.8, seed=number, ignore_eos=True
        )
        async with aclosing(events) as reading:
            async for _ in reading:
                call.output()

    async def _structured(self, call: Call, number: int) -> None:
        # Few schemas come again, and every fourth one is new: the engine's cache must evict.
        schema = {**SCHEMA, "title": f"s{number if number % 4 == 0 else number % 3}"}
        await call.edge.mesh.complete(MODEL, prompt="Someone:", max_tokens=80, json_schema=schema)
        call.output()

    async def _several(self, call: Call, number: int) -> None:
        await call.edge.mesh.complete(
            MODEL, prompt=f"Twice {number}", max_tokens=20, n=2, logprobs=2, temperature=1.0
        )
        call.output()

    async def _embed(self, call: Call, number: int) -> None:
        await call.edge.mesh.embed(ENCODER, ["the quick fox"] * (1 + number % 16), truncate=True)
        call.output()

    async def _job(self, call: Call, number: int) -> None:
        request = generate_request(MODEL, {"prompt": f"Job {number}:", "max_tokens": 20})
        jobs, job_id = call.edge.mesh.jobs, f"soak-{number}"
        await jobs.submit_generation(request, job_id=job_id, retention_s=60)
        call.output()
        ended = await jobs.wait(job_id)
        if ended.state != JOB_STATE_COMPLETED:
            raise Refused(f"{JobState.Name(ended.state)} {ended.failure.reason}")

    async def _cancelled(self, call: Call, number: int) -> None:
        events = call.edge.mesh.generate(
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
        events = call.edge.mesh.generate(
            MODEL, prompt=f"Slowly {number}", max_tokens=100, ignore_eos=True
        )
        async with aclosing(events) as reading:
            async for _ in reading:
                call.output()
                await asyncio.sleep(SLOW_READ_S)

    async def _live(self, call: Call, number: int) -> None:
        watching = call.edge.mesh.live.watch(TOPICS, timeout_s=TIMEOUT_S)
        until_s = time.monotonic() + LIVE_S
        async with aclosing(watching) as reading:
            async for _ in reading:
                call.output()
                if time.monotonic() > until_s:
                    return

    # By HTTP.

    async def _openai(self, call: Call, number: int) -> None:
        body, key = chat_body(number), f"openai-{number}"
        if not body["stream"]:
            await self._post(call, CHAT, body, {"idempotency-key": key})
            return
        reader = SseReader(call.edge.https, body, call_id=key, tls=self._tls)
        await reader.run()
        seen = reader.call()
        self.repeated["openai"] += seen.attached
        if seen.status != OK:
            raise Refused(f"{CHAT} {seen.status}")
        call.output(seen.messages[0].at_s)

    async def _anthropic(self, call: Call, number: int) -> None:
        # A stream is not resumed but repeated, and then replayed from its beginning.
        headers = {"anthropic-version": "2023-06-01", "idempotency-key": f"anthropic-{number}"}
        await self._post(call, "/v1/messages", chat_body(number), headers)

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
        url = f"http{'s' if self._tls else ''}://{call.edge.https[0]}{path}"
        text = b""
        async with self._session.post(url, json=body, headers=headers) as answer:
            if answer.status != 200:
                raise Refused(f"{path} {answer.status}")
            async for part in answer.content.iter_any():
                call.output()
                text += part
        if b"event: error" in text:
            raise Refused(f"{path} {text[-80:]!r}")
