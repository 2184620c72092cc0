"""The same kills under event streams of OpenAI's API: none breaks, and none is wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mlxmesh_shared.registry import Instance
from tests.bench.results import Findings
from tests.chaos.checker import by_request
from tests.chaos.clients import WORDS
from tests.chaos.figures import Disturbance, Targets, findings
from tests.chaos.history import Call
from tests.chaos.mesh import ChaosMesh, Shape, kill, running
from tests.chaos.rounds import HISTORY, REFERENCE
from tests.chaos.scenario import Run, Scenario
from tests.chaos.sse_clients import ResponsesReader, SseReader

STREAMS, TOKENS = 32, 40
EVENTS_BEFORE_FAULT = 10
TIMEOUT_S = 150.0


def chats() -> list[dict[str, Any]]:
    """Different requests, all of which stream."""
    return [
        {
            "model": "pocket",
            "messages": [{"role": "user", "content": f"{WORDS[number % len(WORDS)]}{number}"}],
            "max_tokens": TOKENS,
            "seed": 1000 + number,
            "temperature": 0.9 if number % 2 else 0,
            "stop": ["\u2603\u2603"],
            "stream": True,
            "ignore_eos": True,
        }
        for number in range(STREAMS)
    ]


def responses() -> list[dict[str, Any]]:
    """The same by /v1/responses, in the background."""
    return [
        {
            "model": one["model"],
            "input": one["messages"],
            "max_output_tokens": one["max_tokens"],
            "seed": one["seed"],
            "temperature": one["temperature"],
            "ignore_eos": True,
            "stream": True,
            "background": True,
        }
        for one in chats()
    ]


class StreamTrial:
    """The same event streams on one mesh again and again, each time with something broken."""

    def __init__(
        self,
        run: Run,
        mesh: ChaosMesh,
        bodies: Sequence[dict[str, Any]],
        reader: type[SseReader] = SseReader,
    ) -> None:
        self.mesh = mesh
        self._run = run
        self._bodies = bodies
        self._reader = reader
        self._disturbances: list[Disturbance] = []

    async def undisturbed(self) -> None:
        """The run that all others are compared with."""
        self._run.keep(REFERENCE, await self._read(REFERENCE, [await self.http()], None))

    async def disturbed(
        self, label: str, break_: Callable[[], None], gateways: Sequence[str] = ()
    ) -> None:
        """All streams at once; `break_` comes when each of them has some events."""
        prefix = f"round-{len(self._disturbances)}"
        calls = await self._read(prefix, gateways or [await self.http()], break_)
        self._run.keep(HISTORY, calls)
        self._disturbances.append(Disturbance(label, prefix, self._fault_s, None))
        failed = sum(call.status != "OK" for call in calls)
        self._run.report(f"{label}: {len(calls)} streams, {failed} failed")

    def judge(self) -> Findings:
        """What the histories say; how long gaps are is judged for gRPC."""
        reference = by_request(self._run.kept(REFERENCE))
        return findings(self._run.kept(HISTORY), reference, self._disturbances, Targets())

    async def http(self) -> str:
        """The HTTP address of the launcher's gateway."""
        gateways = await self.mesh.instances("gateway")
        return next(http_of(one) for one in gateways if one.address == self.mesh.address)

    async def _read(
        self, prefix: str, gateways: Sequence[str], break_: Callable[[], None] | None
    ) -> list[Call]:
        readers = [
            self._reader(gateways, body, call_id=f"{prefix}-{number}")
            for number, body in enumerate(self._bodies)
        ]
        tasks = [asyncio.create_task(reader.run()) for reader in readers]
        self._fault_s = time.monotonic()
        if break_ is not None:
            while any(
                reader.tokens < EVENTS_BEFORE_FAULT and not task.done()
                for reader, task in zip(readers, tasks, strict=True)
            ):
                await asyncio.sleep(0.005)
            self._fault_s = time.monotonic()
            break_()
        await asyncio.wait(tasks, timeout=TIMEOUT_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [reader.call() for reader in readers]


def http_of(gateway: Instance) -> str:
    """The HTTP address of a gateway."""
    return gateway.metadata["http"]


async def kill_under_streams(run: Run) -> Findings:
    """An engine and a generation instance in turns, each one of two."""
    async with running(Shape(replicas=2, generations=2)) as mesh:
        trial = StreamTrial(run, mesh, chats())
        await trial.undisturbed()
        for number in run.rounds():
            service = ("engine", "generation")[number % 2]
            if service == "engine":
                victim = (await mesh.instances("engine"))[number // 2 % 2]
            else:
                victim = await mesh.added(service)
            await trial.disturbed(f"kill -9 of {victim.service}", partial(kill, victim))
            if service == "generation":
                await mesh.add(service)
            await mesh.until_whole()
        return trial.judge()


async def kill_gateways_under_chats(run: Run) -> Findings:
    """One of two gateways; its clients go on through the other by `Last-Event-ID`."""
    return await _kill_gateways(run, chats(), SseReader)


async def kill_gateways_under_responses(run: Run) -> Findings:
    """The same by the id of a background response and `starting_after`."""
    return await _kill_gateways(run, responses(), ResponsesReader)


async def _kill_gateways(
    run: Run, bodies: Sequence[dict[str, Any]], reader: type[SseReader]
) -> Findings:
    async with running(Shape(gateways=2)) as mesh:
        trial = StreamTrial(run, mesh, bodies, reader)
        await trial.undisturbed()
        for _ in run.rounds():
            victim = await mesh.added("gateway")
            ways = [http_of(victim), await trial.http()]
            await trial.disturbed("kill -9 of a gateway", partial(kill, victim), ways)
            await mesh.add("gateway")
            await mesh.until_whole()
        return trial.judge()


SCENARIOS = (
    Scenario(
        "stream-kill", "kill -9 of engine or generation, 32 SSE streams", 20, 90, kill_under_streams
    ),
    Scenario(
        "stream-gateway",
        "kill -9 of a gateway, resumed by Last-Event-ID",
        10,
        60,
        kill_gateways_under_chats,
    ),
    Scenario(
        "response-gateway",
        "kill -9 of a gateway, resumed by starting_after",
        10,
        60,
        kill_gateways_under_responses,
    ),
)
