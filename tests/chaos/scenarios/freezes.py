"""SIGSTOP: a process that neither answers nor goes away is as lost as a dead one."""

from __future__ import annotations

import asyncio
from functools import partial

from tests.bench.results import Findings
from tests.chaos.clients import mixed_requests
from tests.chaos.figures import Targets
from tests.chaos.mesh import Shape, freeze, running, thaw
from tests.chaos.rounds import Trial
from tests.chaos.scenario import Run, Scenario

STREAMS, TOKENS = 64, 60
DETECTION_MS = 1500
RECONNECT_S = 1.0
"""Until everybody is connected again to a process that goes on."""


async def freeze_engines(run: Run) -> Findings:
    """One of two replicas, in turns; it goes on when the round is over."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    async with running(Shape(replicas=2)) as mesh:
        trial = Trial(run, mesh, requests)
        await trial.undisturbed()
        for number in run.rounds():
            engines = await mesh.instances("engine")
            victim = engines[number % len(engines)]
            label, stop = "SIGSTOP of an engine", partial(freeze, victim)
            try:
                await trial.disturbed(label, stop, engine_id=victim.instance_id)
            finally:
                thaw(victim)
            await asyncio.sleep(RECONNECT_S)
            await mesh.until_whole()
        return trial.judge(Targets(gap_ms=DETECTION_MS + 500, detection_ms=DETECTION_MS))


async def freeze_generations(run: Run) -> Findings:
    """One of two instances; it goes on when the round is over."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    async with running(Shape(generations=2)) as mesh:
        trial = Trial(run, mesh, requests)
        await trial.undisturbed()
        for _ in run.rounds():
            victim = await mesh.added("generation")
            try:
                await trial.disturbed("SIGSTOP of a generation", partial(freeze, victim))
            finally:
                thaw(victim)
            await asyncio.sleep(RECONNECT_S)
            await mesh.until_whole()
        # Detection is not seen from outside; it is a part of the pause.
        return trial.judge(Targets(gap_ms=DETECTION_MS + 1000))


SCENARIOS = (
    Scenario("engine-freeze", "an engine frozen by SIGSTOP", 10, 60, freeze_engines),
    Scenario("generation-freeze", "a generation instance frozen", 10, 60, freeze_generations),
)
