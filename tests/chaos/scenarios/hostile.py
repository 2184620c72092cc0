"""Bad input of every kind: a clear status that blames the field, and nothing dies."""

from __future__ import annotations

from collections import Counter

import grpc

from tests.bench.results import Findings, Row
from tests.chaos.figures import at_most
from tests.chaos.mesh import Shape, running
from tests.chaos.scenario import Run, Scenario
from tests.e2e import test_hostile_input as hostile

UNCLEAR = ("UNKNOWN", "INTERNAL")


async def bad_input(run: Run) -> Findings:
    """The thousand requests of the end-to-end test, on a real engine."""
    codes: Counter[str] = Counter()
    unclear: list[str] = []
    async with running(Shape(replicas=1, environment={})) as mesh:
        before = await mesh.pids()
        async with grpc.aio.insecure_channel(mesh.address) as channel:
            for number in run.rounds():
                for case in hostile.cases():
                    error = await hostile.outcome(channel, case)
                    codes[error.code().name] += 1
                    try:
                        hostile.check(case, error)
                    except AssertionError:
                        unclear.append(f"{case.method} {case.field}: {error.code().name}")
                run.report(f"round {number + 1}: {codes.total()} requests")
        died = before - await mesh.pids()
    by_status: list[Row] = [{"status": code, "requests": n} for code, n in codes.most_common()]
    tables = {"by status": by_status}
    if unclear:
        tables["unclear"] = [{"case": case} for case in unclear[:20]]
    return Findings(
        [
            at_most("processes that died", len(died), 0),
            at_most("UNKNOWN or INTERNAL", sum(codes[name] for name in UNCLEAR), 0),
            at_most("answers that do not blame the field", len(unclear), 0),
        ],
        {
            "by status": rows,
            **({"unclear": [{"case": each} for each in unclear[:20]]} if unclear else {}),
        },
    )


SCENARIOS = (Scenario("bad-input", "bad input of every kind", 3, 30, bad_input),)
