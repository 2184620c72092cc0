"""Clients that misbehave: one that does not read, and a thousand that leave at once."""

from __future__ import annotations

import asyncio
import time

from mlxmesh.engine.v1.engine_pb2 import GetEngineInfoRequest
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from mlxmesh_shared.channels import open_channel
from tests.bench.results import Findings, Row, median_of
from tests.bench.samples import percentile
from tests.chaos.checker import by_request, check
from tests.chaos.clients import Crowd, mixed_requests
from tests.chaos.figures import at_most, ends, promises
from tests.chaos.history import OK, Call
from tests.chaos.mesh import SIMULATED, ChaosMesh, Shape, running
from tests.chaos.proxy import Proxy
from tests.chaos.scenario import Run, Scenario

STREAMS, TOKENS = 64, 100
SLEEP_S = 5.0
CALLS, CONNECTIONS = 1000, 5
FREED_MS = 100
_POLL_S = 0.005


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
            at_most("gap p99 of the others, over that without it", ratio, 2, "ratio"),
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
    """Of the longest gap of each call."""
    return 1e3 * percentile(sorted(call.longest_gap_s() for call in calls), 0.99)


async def disconnects(run: Run) -> Findings:
    """A thousand streams whose connections all break at one moment."""
    wide = {"MLXMESH_ENGINE_MAX_RUNNING": "600", "MLXMESH_ENGINE_SIMULATED_STEP_MS": "500"}
    requests = mixed_requests(CALLS, max_tokens=1000)
    freed_ms: list[float] = []
    rows: list[Row] = []
    async with running(Shape(replicas=2, environment=SIMULATED | wide)) as mesh:
        for number in run.rounds():
            async with (
                Proxy(mesh.address) as proxy,
                Crowd([proxy.address], connections=CONNECTIONS) as crowd,
            ):
                crowd.start(requests, f"round-{number}", kept=False)
                await crowd.until_each_has(1)
                held = await engine_load(mesh)
                started_s = time.monotonic()
                proxy.reset()
                while await engine_load(mesh):
                    await asyncio.sleep(_POLL_S)
                freed_ms.append(1e3 * (time.monotonic() - started_s))
                calls = await crowd.finish()
            rows.append({"round": number + 1, "streams": held, "freed ms": freed_ms[-1]})
            run.report(f"{held} streams, freed after {freed_ms[-1]:.0f} ms")
            run.keep("history", calls)
        async with Crowd([mesh.address]) as crowd:
            crowd.start(mixed_requests(8, max_tokens=2), "afterwards")
            after = await crowd.finish()
    return Findings(
        [
            at_most("streams not held at the disconnect", CALLS - min_of(rows, "streams"), 0),
            at_most("slots freed after, worst", max(freed_ms), FREED_MS, "ms"),
            at_most("calls failed afterwards", sum(call.status != OK for call in after), 0),
        ],
        {"by round": rows, "ends": ends(run.kept("history"))},
    )


def min_of(rows: list[Row], column: str) -> int:
    """The least of a column."""
    return min(int(row[column]) for row in rows)


async def engine_load(mesh: ChaosMesh) -> int:
    """Sequences that all engines run or keep waiting."""
    total = 0
    for engine in await mesh.instances("engine"):
        async with open_channel(engine.address) as channel:
            info = await EngineServiceStub(channel).GetEngineInfo(GetEngineInfoRequest(), timeout=5)
            total += info.load.running + info.load.waiting
    return total


SCENARIOS = (
    Scenario("slow-reader", "one slow reader among 64 streams", 3, 60, slow_reader),
    Scenario("disconnects", "1,000 streams disconnected at once", 5, 60, disconnects),
)
