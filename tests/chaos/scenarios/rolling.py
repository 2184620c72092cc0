"""The whole mesh restarted, one process after the other, while calls go on."""

from __future__ import annotations

import time

from tests.bench.results import Findings, Row
from tests.chaos.checker import by_request, check
from tests.chaos.clients import Crowd, mixed_requests
from tests.chaos.figures import at_most, promises
from tests.chaos.load import SteadyLoad
from tests.chaos.mesh import Shape, running
from tests.chaos.scenario import Run, Scenario

STREAMS, TOKENS = 8, 40
RESTART_TIMEOUT_S = 180.0


async def rolling_restart(run: Run) -> Findings:
    """`mlxmesh restart --rolling` again and again; its clients never repeat a call."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    rows: list[Row] = []
    async with running(Shape(replicas=1)) as mesh:
        async with Crowd([mesh.address]) as crowd:
            crowd.start(requests, "reference")
            run.keep("reference", await crowd.finish())
        async with SteadyLoad(mesh.address, requests, streams=STREAMS) as load:
            for number in run.rounds():
                total, failed, pids = load.total, load.failed, await mesh.pids()
                started_s = time.monotonic()
                code, output = await mesh.mlxmesh(
                    "restart", "--rolling", timeout_s=RESTART_TIMEOUT_S
                )
                if code:
                    raise RuntimeError(f"mlxmesh restart exited with {code}: {output[-500:]}")
                rows.append(
                    {
                        "fault": "rolling restart",
                        "rounds": 1,
                        "calls": load.total - total,
                        "failed": load.failed - failed,
                        "processes that stayed": len(pids & await mesh.pids()),
                        "took s": time.monotonic() - started_s,
                    }
                )
                run.report(f"restart {number + 1}: {rows[-1]}")
    run.keep("history", load.calls)
    violations = check(run.kept("history"), by_request(run.kept("reference")))
    stayed = sum(int(row["processes that stayed"]) for row in rows)
    return Findings(
        [
            at_most(f"calls failed, of {load.total:,}", load.failed, 0),
            *promises(violations),
            at_most("processes not restarted", stayed, 0),
        ],
        {"by fault": rows, "ends": load.rows()},
    )


SCENARIOS = (
    Scenario("rolling-restart", "rolling restart of every service", 50, 200, rolling_restart),
)
