"""One caller sends the worst that is legal, while another chats and a probe asks for health."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil
from grpc import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from mlxmesh.generation.v1.generation_pb2 import ChatInput, ChatMessage, GenerateRequest, Role
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh_shared.rpc.caller import CALLER_METADATA
from tests.bench.results import Findings, Row
from tests.bench.samples import percentile
from tests.chaos.attacks import ATTACKS
from tests.chaos.figures import at_most
from tests.chaos.maximal import maximal_requests
from tests.chaos.mesh import ChaosMesh, Shape, running
from tests.chaos.scenario import Run, Scenario

ADDRESS = "ADDRESS"
QUIET_S, ATTACK_S, RECOVERY_S = 6.0, 4.0, 1.0
HEALTH_ABOVE_QUIET_MS = 100
MAX_GROWTH_MB = {"gateway": 1_400, "generation": 512}
"""As docs/operations.md says: the gateway holds 256 MiB of large requests, each up to three times,
and reads 32 others of up to 17 MiB; generation holds 256 MiB of requests, up to twice."""
CHAT_TIMEOUT_S = 20.0
UNCLEAR = ("UNKNOWN", "INTERNAL")
_MB = 1_000_000


@dataclass
class Seen:
    """What the neighbour saw during one phase."""

    health_ms: list[float] = field(default_factory=list[float])
    chats: Counter[str] = field(default_factory=Counter[str])
    peak_mb: dict[str, float] = field(default_factory=dict[str, float])

    def health_p99_ms(self) -> float:
        """Of the answers to health checks."""
        return percentile(sorted(self.health_ms), 0.99)

    def failed(self) -> int:
        """Chats that did not end well."""
        return self.chats.total() - self.chats["OK"]


SHORT = (
    "Generate chat.messages",
    "CountTokens prompt",
    "PublishEvents events.config_changed.settings",
)
"""One for each way to be expensive: many parts, long text, large bytes that are kept."""


Assault = tuple[str, Sequence[str]]
"""Its name for the table, and the words after `python -m` that start it, without the address."""


def requests(only: Sequence[str] = ()) -> list[Assault]:
    """Each request at its legal maximum, a hundred at once; those of SHORT also compressed."""
    found: list[Assault] = []
    for number, request in enumerate(maximal_requests()):
        words = ("tests.chaos.attacker", ADDRESS, str(number), str(ATTACK_S))
        if not only or request.name in only:
            found.append((request.name, words))
        if request.name in SHORT:
            found.append((f"{request.name}, gzip", (*words, "--gzip")))
    return found


def attacks() -> list[Assault]:
    """What is not legal: floods of elements, half-sent requests, readers that do not read."""
    return [
        (name, ("tests.chaos.attacks", name, ADDRESS, str(ATTACK_S))) for name in sorted(ATTACKS)
    ]


async def neighbour(run: Run, assaults: Sequence[Assault]) -> Findings:
    """One assault after the other, and what the neighbour saw during each."""
    rows: list[Row] = []
    statuses: Counter[str] = Counter()
    async with running(Shape(replicas=1, environment={})) as mesh:
        before = await mesh.pids()
        for _ in run.rounds():
            async with watching(mesh) as quiet:
                await asyncio.sleep(QUIET_S)
            for label, words in assaults:
                async with watching(mesh) as seen:
                    ends = await _ends_of(mesh.address, words)
                statuses.update(ends)
                rows.append(_row(label, seen, quiet, ends))
                run.report(", ".join(f"{name} {value}" for name, value in rows[-1].items()))
                await asyncio.sleep(RECOVERY_S)
        died = before - await mesh.pids()
    return Findings(
        [
            at_most("processes that died", len(died), 0),
            at_most("chats of the neighbour that failed", _sum(rows, "chats failed"), 0),
            at_most("UNKNOWN or INTERNAL", sum(statuses[name] for name in UNCLEAR), 0),
            at_most(
                "health p99 above quiet, worst",
                _worst(rows, "health p99 above quiet ms"),
                HEALTH_ABOVE_QUIET_MS,
                "ms",
            ),
            *(
                at_most(f"growth of {name}, worst", _worst(rows, f"{name} MB"), most_mb, "MB")
                for name, most_mb in MAX_GROWTH_MB.items()
            ),
        ],
        {"by request": rows},
    )


def _row(label: str, seen: Seen, quiet: Seen, ends: Counter[str]) -> Row:
    return {
        "request": label,
        "calls": ends.total(),
        "ends": ", ".join(f"{name} {count}" for name, count in ends.most_common(3)),
        "health p99 above quiet ms": round(seen.health_p99_ms() - quiet.health_p99_ms()),
        "chats": seen.chats.total(),
        "chats failed": seen.failed(),
        "gateway MB": round(seen.peak_mb["gateway"] - quiet.peak_mb["gateway"]),
        "generation MB": round(seen.peak_mb["generation"] - quiet.peak_mb["generation"]),
    }


def _worst(rows: Sequence[Row], column: str) -> float:
    return max(float(row[column]) for row in rows)


def _sum(rows: Sequence[Row], column: str) -> float:
    return sum(float(row[column]) for row in rows)


async def _ends_of(address: str, words: Sequence[str]) -> Counter[str]:
    """Runs an assault in a process of its own; how many of its calls ended with which status."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *(address if word == ADDRESS else word for word in words),
        stdout=PIPE,
    )
    try:
        async with asyncio.timeout(ATTACK_S + 60):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Counter(json.loads(output))


@asynccontextmanager
async def watching(mesh: ChaosMesh) -> AsyncGenerator[Seen]:
    """Chats, asks for health and weighs the processes until the end of the body."""
    seen = Seen()
    async with aio.insecure_channel(mesh.address) as channel:
        work = [_chat(channel, seen), _ask_health(channel, seen), _weigh(mesh, seen)]
        tasks = [asyncio.create_task(each) for each in work]
        try:
            yield seen
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _chat(channel: aio.Channel, seen: Seen) -> None:
    stub = GenerationServiceStub(channel)
    turn = ChatMessage(role=Role.ROLE_USER, content="What is 2 plus 2?")
    request = GenerateRequest(model="pocket", chat=ChatInput(messages=[turn]), max_tokens=8)
    while True:
        try:
            stream = stub.Generate(
                request, timeout=CHAT_TIMEOUT_S, metadata=((CALLER_METADATA, "neighbour"),)
            )
            async for _ in stream:
                pass
            seen.chats["OK"] += 1
        except aio.AioRpcError as error:
            seen.chats[error.code().name] += 1
        await asyncio.sleep(0.05)


async def _ask_health(channel: aio.Channel, seen: Seen) -> None:
    stub: Any = HealthStub(channel)
    while True:
        started_s = time.monotonic()
        await stub.Check(HealthCheckRequest(), timeout=CHAT_TIMEOUT_S)
        seen.health_ms.append(1e3 * (time.monotonic() - started_s))
        await asyncio.sleep(0.02)


async def _weigh(mesh: ChaosMesh, seen: Seen) -> None:
    names = ("gateway", "generation")
    processes = {
        name: psutil.Process(one.pid) for name in names for one in await mesh.instances(name)
    }
    while True:
        for name, process in processes.items():
            size_mb = process.memory_info().rss / _MB
            seen.peak_mb[name] = max(seen.peak_mb.get(name, 0.0), size_mb)
        await asyncio.sleep(0.05)


SCENARIOS = (
    Scenario(
        "neighbour",
        "every request at its legal maximum, 100 at once",
        1,
        600,
        partial(neighbour, assaults=requests()),
    ),
    Scenario(
        "neighbour-short",
        "three such requests",
        1,
        90,
        partial(neighbour, assaults=requests(SHORT)),
    ),
    Scenario(
        "neighbour-attacks",
        "floods, half-sent requests, silent readers and connections",
        1,
        300,
        partial(neighbour, assaults=attacks()),
    ),
)
