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
    """The thousand requests of the end-to-end test, again and again, on a real engine."""
    codes: Counter[str] = Counter()
    unclear: list[Row] = []
    async with running(Shape(replicas=1, environment={})) as mesh:
        before = await mesh.pids()
        async with grpc.aio.insecure_channel(mesh.address) as channel:
            for number in run.rounds():
                for case in hostile.cases():
                    code, fits = await _answer(channel, case)
                    codes[code] += 1
                    if not fits:
                        unclear.append({"case": f"{case.method} {case.field}", "answer": code})
                run.report(f"round {number + 1}: {codes.total()} requests")
        died = before - await mesh.pids()
    by_status: list[Row] = [{"status": code, "requests": n} for code, n in codes.most_common()]
    return Findings(
        [
            at_most("processes that died", len(died), 0),
            at_most("UNKNOWN or INTERNAL", sum(codes[name] for name in UNCLEAR), 0),
            at_most("accepted, or error without the field", len(unclear), 0),
        ],
        {"by status": by_status, **({"unclear": unclear[:20]} if unclear else {})},
    )


async def _answer(channel: grpc.aio.Channel, case: hostile.Case) -> tuple[str, bool]:
    """The status that a case gets, and whether it is as clear as it should be."""
    try:
        await hostile.answer(channel, case)
    except grpc.aio.AioRpcError as error:
        try:
            hostile.check(case, error)
        except AssertionError:
            return error.code().name, False
        return error.code().name, True
    return "OK", False


SCENARIOS = (Scenario("bad-input", "bad input of every kind", 3, 30, bad_input),)
