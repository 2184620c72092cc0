"""Faults of the network, on each of the three links that a stream passes over."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tests.bench.results import Findings
from tests.chaos.clients import mixed_requests
from tests.chaos.figures import Targets
from tests.chaos.mesh import ChaosMesh, Shape, running
from tests.chaos.proxy import Proxy
from tests.chaos.rounds import Trial
from tests.chaos.scenario import Run, Scenario

STREAMS, TOKENS = 32, 60
STALL_S = 3.0
LATENCY_S = 0.2
SETTLE_S = 1.0
"""Until everybody has read a changed record and goes the new way."""
NO_TIMES = Targets()
LINKS = ("gateway", "generation", "engine")
Spoil = tuple[str, Callable[[Proxy], None]]
"""A fault's name, and what begins it."""


@dataclass(frozen=True)
class Way:
    """A proxy in the link to `service`, and the ways that clients have to gateways."""

    service: str
    proxy: Proxy
    gateways: Sequence[str]
    engine_id: str = ""


@contextlib.asynccontextmanager
async def way(mesh: ChaosMesh, service: str) -> AsyncGenerator[Way]:
    """Puts a proxy into one link; another instance, or for clients the gateway, stays in reach."""
    if service == "gateway":
        async with Proxy(mesh.address) as proxy:
            yield Way(service, proxy, [proxy.address, mesh.address])
        return
    behind = (await mesh.instances(service))[0]
    async with Proxy(behind.address) as proxy, mesh.rerouted(behind, proxy.address):
        await asyncio.sleep(SETTLE_S)
        engine_id = behind.instance_id if service == "engine" else ""
        yield Way(service, proxy, [mesh.address], engine_id)


async def spoil_links(run: Run, spoils: Sequence[Spoil], targets: Targets) -> Findings:
    """Each fault on each link in turns; it is taken away when its round is over."""
    requests = mixed_requests(STREAMS, max_tokens=TOKENS)
    turns = [(service, spoil) for spoil in spoils for service in LINKS]
    async with running(Shape(replicas=2, generations=2)) as mesh:
        trial = Trial(run, mesh, requests)
        await trial.undisturbed()
        for number in run.rounds():
            service, (name, begin) = turns[number % len(turns)]
            async with way(mesh, service) as on:
                await trial.disturbed(
                    f"{name}, link to {service}",
                    partial(begin, on.proxy),
                    gateways=on.gateways,
                    engine_id=on.engine_id,
                )
                on.proxy.heal()
            await mesh.until_whole()
        return trial.judge(targets)


def stall(proxy: Proxy) -> None:
    """Nothing passes for a while, then everything."""
    proxy.black_hole()
    asyncio.get_running_loop().call_later(STALL_S, proxy.heal)


def delay(proxy: Proxy) -> None:
    """Everything passes late."""
    proxy.up.latency_s = proxy.down.latency_s = LATENCY_S


BLACK_HOLE = (("black hole", Proxy.black_hole),)
STALL = ((f"stall of {STALL_S:.0f} s", stall),)
LATENCY = ((f"{1e3 * LATENCY_S:.0f} ms more each way", delay),)
RESET = (("reset", Proxy.reset),)
HALF_CLOSE = (
    ("half-close of answers", Proxy.half_close_down),
    ("half-close of requests", Proxy.half_close_up),
)


def _scenario(
    name: str, fault: str, count: int, spoils: Sequence[Spoil], targets: Targets = NO_TIMES
) -> Scenario:
    async def play(run: Run) -> Findings:
        return await spoil_links(run, spoils, targets)

    return Scenario(name, fault, count, 50, play)


SCENARIOS = (
    _scenario("link-black-hole", "a black-holed link", 9, BLACK_HOLE, Targets(detection_ms=1500)),
    _scenario("link-stall", "a link that stalls for 3 s", 6, STALL),
    _scenario("link-latency", "200 ms of extra latency on a link", 6, LATENCY),
    _scenario("link-reset", "connections reset", 9, RESET),
    _scenario("link-half-close", "connections half-closed", 12, HALF_CLOSE),
)
