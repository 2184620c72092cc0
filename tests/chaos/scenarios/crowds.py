"""Clients that misbehave: one that does not read, and a thousand that leave at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

from mlxmesh.engine.v1.engine_pb2 import GetEngineInfoRequest
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh_shared.rpc.channels import open_channel
from tests.bench.results import Findings, Row, median_of
from tests.bench.samples import percentile
from tests.chaos.checker import by_request, check
from tests.chaos.client_process import HoldingClient
from tests.chaos.clients import Crowd, mixed_requests
from tests.chaos.figures import at_most, ends, promises
from tests.chaos.history import OK, Call
from tests.chaos.mesh import SIMULATED, ChaosMesh, Shape, running
from tests.chaos.scenario import Run, Scenario

STREAMS, TOKENS = 64, 100
SLEEP_S = 5.0
CALLS, CLIENTS = 1000, 5
FREED_MS = 100
_POLL_S = 0.01
WIDE = {
    "MLXMESH_ENGINE_MAX_RUNNING": "600",
    "MLXMESH_ENGINE_SIMULATED_STEP_MS": "1000",
    # One caller gets only a part of the places.
    "MLXMESH_GATEWAY_MAX_CONCURRENT_RPCS": "4096",
    "MLXMESH_GENERATION_MAX_CONCURRENT_RPCS": "4096",
}
"""Room for all of them, and steps so slow that they all fit into this machine."""


async def slow_reader(run: Run) -> Findings:
    """One of 64 streams reads its first messages, then none for longer than the rest takes."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    rows: list[Row] = []
    async with running(Shape(replicas=1)) as mesh:
        for number in run.rounds():
            alone = await _crowd(run, mesh, requests, f"quiet-{number}", slow=0)
            beside = await _crowd(run, mesh, requests, f"slow-{number}", slow=1)
            rows.append({"quiet p99 ms": gap_p99_ms(alone), "beside p99 ms": gap_p99_ms(beside)})
            rows[-1] = {"round": number + 1, "calls": len(beside), **rows[-1]}
            run.report(", ".join(f"{name} {value:.0f}" for name, value in rows[-1].items()))
    quiet = [call for call in run.kept("history") if call.call_id.startswith("quiet-0")]
    history = run.kept("history")
    ratio = median_of(rows, lambda row: float(row["beside p99 ms"]) / float(row["quiet p99 ms"]))
    return Findings(
        [
            at_most("calls failed", sum(call.status != OK for call in history), 0),
            *promises(check(history, by_request(quiet))),
            at_most("gap p99 of the others, over a run without it", ratio, 2, "ratio"),
        ],
        {"by round": rows, "ends": ends(history)},
    )


async def _crowd(
    run: Run, mesh: ChaosMesh, requests: list[GenerateRequest], label: str, *, slow: int
) -> list[Call]:
    """All streams to their ends; what the others saw beside the slow ones."""

    def sleepy(messages: int) -> float:
        return SLEEP_S if messages == 5 else 0.0

    async with Crowd([mesh.address]) as crowd:
        crowd.start(requests[slow:], f"{label}-others")
        crowd.start(requests[:slow], f"{label}-slow", pause=sleepy)
        calls = await crowd.finish()
    run.keep("history", calls)
    return calls[: len(requests) - slow]


def gap_p99_ms(calls: list[Call]) -> float:
    """Of the times between two messages of a call."""
    return 1e3 * percentile(sorted(gap_s for call in calls for gap_s in call.gaps_s()), 0.99)


async def disconnects(run: Run) -> Findings:
    """A thousand streams of five clients that are all killed at one moment."""
    rows: list[Row] = []
    async with running(Shape(replicas=2, environment=SIMULATED | WIDE)) as mesh:
        for number in run.rounds():
            held, freed_ms = await _held_and_freed(mesh)
            rows.append({"round": number + 1, "streams": held, "freed after ms": freed_ms})
            run.report(f"{held} streams, freed after {freed_ms:.0f} ms")
        async with Crowd([mesh.address]) as crowd:
            crowd.start(mixed_requests(8, max_tokens=2), "afterwards")
            after = await crowd.finish()
    slowest_ms = max(float(row["freed after ms"]) for row in rows)
    return Findings(
        [
            at_most("streams refused", CALLS - min(int(row["streams"]) for row in rows), 0),
            at_most("slots freed after, worst", slowest_ms, FREED_MS, "ms"),
            at_most("calls failed afterwards", sum(call.status != OK for call in after), 0),
        ],
        {"by round": rows, "ends afterwards": ends(after)},
    )


async def _held_and_freed(mesh: ChaosMesh) -> tuple[int, float]:
    """How many streams there were, and the milliseconds until no engine had any of them."""
    clients = [HoldingClient(mesh.address, CALLS // CLIENTS) for _ in range(CLIENTS)]
    async with AsyncExitStack() as stack:
        # Open before the clients leave: a connection for each look would take what is measured.
        engines = [
            EngineServiceStub(await stack.enter_async_context(open_channel(engine.address)))
            for engine in await mesh.instances("engine")
        ]
        for client in clients:
            stack.push_async_callback(client.ended)
            stack.callback(client.kill)
        held = sum(await asyncio.gather(*(client.start() for client in clients)))
        started_s = time.monotonic()
        for client in clients:
            client.kill()
        while await engine_load(engines):
            await asyncio.sleep(_POLL_S)
        return held, 1e3 * (time.monotonic() - started_s)


async def engine_load(engines: Sequence[EngineServiceStub]) -> int:
    """Sequences that all engines run or keep waiting."""
    asked = [engine.GetEngineInfo(GetEngineInfoRequest(), timeout=5) for engine in engines]
    loads = [info.load for info in await asyncio.gather(*asked)]
    return sum(load.running + load.waiting for load in loads)


SCENARIOS = (
    Scenario("slow-reader", "one slow reader among 64 streams", 3, 60, slow_reader),
    Scenario("disconnects", "1,000 streams disconnected at once", 5, 60, disconnects),
)
