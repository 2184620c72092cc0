"""kill -9 of an engine, a generation instance, a gateway: streams go on at their next token."""

from __future__ import annotations

from functools import partial

from tests.bench.results import Findings
from tests.chaos.clients import mixed_requests
from tests.chaos.figures import Targets
from tests.chaos.mesh import Shape, kill, running
from tests.chaos.rounds import Trial
from tests.chaos.scenario import Run, Scenario

STREAMS, TOKENS = 64, 40
REAL_STREAMS, REAL_TOKENS = 64, 60
# The targets leave room for a prefill; a simulated one takes no time.
ENGINE_TARGETS = Targets(gap_ms=500, detection_ms=50)
GENERATION_TARGETS = Targets(gap_ms=1000)


async def kill_engines(run: Run) -> Findings:
    """One of two replicas, in turns."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    async with running(Shape(replicas=2)) as mesh:
        return await _kill_engines(run, Trial(run, mesh, requests), ENGINE_TARGETS)


async def kill_real_engines(run: Run) -> Findings:
    """As above with a real model: the tokens come from weights, samplers and penalties.

    Both replicas share this machine's cores, so that times say little: none is judged.
    """
    requests = mixed_requests(REAL_STREAMS, max_tokens=REAL_TOKENS)
    async with running(Shape(replicas=2, environment={})) as mesh:
        return await _kill_engines(run, Trial(run, mesh, requests), Targets())


async def kill_the_only_engine(run: Run) -> Findings:
    """The only replica: its streams wait until the runtime has started it again."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    async with running(Shape(replicas=1)) as mesh:
        # How long an engine takes to start is the model's matter, and no target of this one.
        return await _kill_engines(run, Trial(run, mesh, requests), Targets(detection_ms=50))


async def _kill_engines(run: Run, trial: Trial, targets: Targets) -> Findings:
    await trial.undisturbed()
    for number in run.rounds():
        engines = await trial.mesh.instances("engine")
        victim = engines[number % len(engines)]
        crash = partial(kill, victim)
        await trial.disturbed("kill -9 of an engine", crash, engine_id=victim.instance_id)
        await trial.mesh.until_whole()
    return trial.judge(targets)


async def kill_generations(run: Run) -> Findings:
    """One of two instances; another takes its place after each round."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    async with running(Shape(generations=2)) as mesh:
        return await _kill_added(run, Trial(run, mesh, requests), "generation", GENERATION_TARGETS)


async def kill_gateways(run: Run) -> Findings:
    """One of two; its clients attach through the other."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    async with running(Shape(gateways=2)) as mesh:
        return await _kill_added(run, Trial(run, mesh, requests), "gateway", Targets())


async def _kill_added(run: Run, trial: Trial, service: str, targets: Targets) -> Findings:
    await trial.undisturbed()
    for _ in run.rounds():
        victim = await trial.mesh.added(service)
        ways = [victim.address, trial.mesh.address] if service == "gateway" else []
        await trial.disturbed(f"kill -9 of a {service}", partial(kill, victim), gateways=ways)
        await trial.mesh.add(service)
        await trial.mesh.until_whole()
    return trial.judge(targets)


SCENARIOS = (
    Scenario("engine-kill", "kill -9 of an engine under 64 streams", 100, 220, kill_engines),
    Scenario(
        "engine-kill-real", "the same, real model, greedy and seeded", 5, 70, kill_real_engines
    ),
    Scenario("engine-kill-last", "kill -9 of the only engine", 10, 60, kill_the_only_engine),
    Scenario("generation-kill", "kill -9 of a generation instance", 100, 220, kill_generations),
    Scenario("gateway-kill", "kill -9 of a gateway, attach", 20, 60, kill_gateways),
)
