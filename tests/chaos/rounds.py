"""Rounds of one kind: many streams, a fault in their middle, and what became of each stream."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mlxmesh.generation.v1.generation_pb2 import GenerateRequest
from tests.bench.results import Findings
from tests.chaos.checker import by_request, check
from tests.chaos.clients import Crowd
from tests.chaos.figures import Disturbance, Targets, findings, moved
from tests.chaos.history import OK, Call
from tests.chaos.mesh import ChaosMesh
from tests.chaos.scenario import Run

TOKENS_BEFORE_FAULT = 10
NOTICED_WITHIN_S = 5.0
HISTORY, REFERENCE = "history", "reference"


class Trial:
    """The same streams on one mesh again and again, each time with something broken."""

    def __init__(self, run: Run, mesh: ChaosMesh, requests: Sequence[GenerateRequest]) -> None:
        self._run = run
        self.mesh = mesh
        self._requests = requests
        self._reference: dict[str, Call] = {}
        self._disturbances: list[Disturbance] = []

    async def undisturbed(self) -> None:
        """The run that all others are compared with. Raises ValueError when a call fails in it."""
        async with Crowd([self.mesh.address]) as crowd:
            crowd.start(self._requests, REFERENCE)
            calls = await crowd.finish()
        self._run.keep(REFERENCE, calls)
        self._reference = by_request(calls)

    async def disturbed(
        self,
        label: str,
        break_: Callable[[], None],
        *,
        gateways: Sequence[str] = (),
        engine_id: str = "",
    ) -> None:
        """All streams at once; `break_` comes when each of them has some tokens, or has ended.

        With the id of the engine that breaks, the time until generation noticed is kept too.
        """
        prefix = f"round-{len(self._disturbances)}"
        async with Crowd(gateways or [self.mesh.address]) as crowd:
            crowd.start(self._requests, prefix)
            await crowd.until_each_has(TOKENS_BEFORE_FAULT)
            fault_s = time.monotonic()
            break_()
            calls = await crowd.finish()
        self._run.keep(HISTORY, calls)
        found = Disturbance(label, prefix, fault_s, self._noticed_s(engine_id, fault_s))
        self._disturbances.append(found)
        self._report(found, calls)

    def judge(self, targets: Targets) -> Findings:
        """What the histories say, read back from their files."""
        reference = by_request(self._run.kept(REFERENCE))
        return findings(self._run.kept(HISTORY), reference, self._disturbances, targets)

    def _noticed_s(self, engine_id: str, fault_s: float) -> float | None:
        """When generation gave the engine up, as its log tells."""
        if not engine_id:
            return None
        component = "mlxmesh_generation.placement.engine_link"
        at_s = self.mesh.first_log_s("generation", component, engine_id, fault_s)
        return at_s if at_s is not None and at_s < fault_s + NOTICED_WITHIN_S else None

    def _report(self, disturbance: Disturbance, calls: Sequence[Call]) -> None:
        after_s = disturbance.fault_s
        longest_s = max(call.longest_gap_s(after_s=after_s) for call in calls)
        failed = sum(call.status != OK for call in calls)
        self._run.report(
            f"round {len(self._disturbances)} of {self._run.count}, {disturbance.label}: "
            f"{len(calls)} calls, {sum(map(moved, calls))} moved, {failed} failed, "
            f"longest pause {1e3 * longest_s:.0f} ms, "
            f"{len(check(calls, self._reference))} violations"
        )
