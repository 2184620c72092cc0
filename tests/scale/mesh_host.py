"""Many generation instances and gateways in one process, as far as discovery and picking go.

Each has a registry adapter of its own, so connections and watches of its own. A generation instance
has the real `Engines`; where it is not `linked`, its links are to engines that stay idle. A gateway
has the real `Backends`, whose channels connect with the first call, and follows all services for
its events, engines as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil

from mlxmesh.engine.v1.engine_pb2 import EngineLoad, ExecuteResponse
from mlxmesh_gateway.events.instance_events import InstanceEvents
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.routes import BACKENDS
from mlxmesh_gateway.mesh.status import SERVICES
from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.request import GenerationRequest, PromptText
from mlxmesh_generation.placement.engines import Engines
from mlxmesh_generation.placement.sequence import EngineOutput, SequenceRequest
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.events import discard_event
from mlxmesh_shared.reference import ModelReference
from mlxmesh_shared.registry.port import OFFERS_RELAY, Instance
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.settings import ConsulSettings
from tests.scale.engine_host import model_of, serving_ports
from tests.scale.watching import WatchedRegistry, totals
from tests.scale.worker import Handler, answer_commands

PROMPT_TOKENS = 256
_POLL_S = 0.02


class IdleCall:
    """An `Execute` stream to an engine that has nothing to do: one report, then silence."""

    async def __aiter__(self) -> AsyncIterator[ExecuteResponse]:
        yield ExecuteResponse(load=EngineLoad(max_running=64, max_waiting=256))
        await asyncio.Event().wait()

    async def write(self, message: Any) -> None:
        pass

    def cancel(self) -> None:
        pass


class NoConnection:
    """Stands for a channel to an idle engine: its link costs what it costs, without a socket."""

    async def channel_ready(self) -> None:
        pass

    async def close(self, grace: float | None = None) -> None:
        pass

    def stream_stream(self, *_: Any, **__: Any) -> Any:
        return lambda *_, **__: IdleCall()

    def unary_unary(self, *_: Any, **__: Any) -> Any:
        return None


def no_connection(*_: Any, **__: Any) -> Any:
    """Satisfies OpenChannel."""
    return NoConnection()


def _version(model: str) -> ModelVersion:
    return ModelVersion(
        model, 1, digest="", context_tokens=4096, vocab_size=1000, desired_replicas=1
    )


class Ignore:
    """Satisfies SequenceSink."""

    def on_output(self, output: EngineOutput) -> None:
        pass

    def on_lost(self, error: MeshError) -> None:
        pass


def place_s(engines: Engines, model: str, count: int) -> float:
    """The CPU time of one placement in a model, in seconds, with its message to the engine."""
    version = _version(model)
    request = GenerationRequest("scale", ModelReference(model), PromptText("x"))
    asked = [
        SequenceRequest(request, [number] * PROMPT_TOKENS, max_tokens=1, seed=0)
        for number in range(count)
    ]
    # This loop does not wait, so that the time of the thread is that of the placements.
    started_s = time.thread_time()
    placed = [engines.place(version, each, Ignore()) for each in asked]
    took_s = time.thread_time() - started_s
    for sequence in placed:
        sequence.drop()
    return took_s / count


class MeshHost:
    """The instances of this process, and the answers to the commands of the test."""

    def __init__(self, settings: ConsulSettings, *, linked: bool) -> None:
        self._settings = settings
        self._linked = linked
        self._registries: list[WatchedRegistry] = []
        self._watching: list[WatchedRegistry] = []
        self._engines: list[Engines] = []
        self._gateways: list[Backends] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def add_generation(self, number: int, port: int) -> None:
        registry = self._registry()
        self._watching.append(registry)
        engines = Engines(registry, open_=open_channel if self._linked else no_connection)
        self._engines.append(engines)
        self._tasks.append(asyncio.create_task(engines.run()))
        instance_id = f"generation-{number:04d}-0123abcd"
        facts = {"contract": "v1", "host": f"host-{number}", OFFERS_RELAY: "1"}
        await registry.register(Instance("generation", instance_id, f"127.0.0.1:{port}", 1, facts))

    async def add_gateway(self) -> None:
        async def ignore(service: str, known: bool) -> None:
            pass

        registry = self._registry()
        self._watching.append(registry)
        backends = Backends(registry, tuple(BACKENDS), on_change=ignore)
        await backends.start()
        self._gateways.append(backends)
        events = InstanceEvents(registry, SERVICES, own_id="", publish=discard_event)
        self._tasks.append(asyncio.create_task(events.run()))

    def _registry(self) -> WatchedRegistry:
        self._registries.append(WatchedRegistry(self._settings))
        return self._registries[-1]

    async def until_known(self, count: int, timeout_s: float) -> list[float]:
        """When each instance here had dealt with so many engines, in time.monotonic()."""
        try:
            async with asyncio.timeout(timeout_s):
                while any(each.known.get("engine", (0, -1))[1] != count for each in self._watching):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            known = sorted({each.known.get("engine", (0, -1))[1] for each in self._watching})
            raise TimeoutError(f"not {count} engines known after {timeout_s} s: {known}") from None
        return [each.known["engine"][0] for each in self._watching]

    async def until_connected(self, numbers: list[int], timeout_s: float) -> float:
        """When the links to all of these engines and to no others were connected."""
        versions = {model_of(number) for number in numbers}
        async with asyncio.timeout(timeout_s):
            while sum(map(self._connected, versions)) != len(numbers):
                await asyncio.sleep(_POLL_S)
        return time.monotonic()

    def _connected(self, model: str) -> int:
        return self._engines[0].encoders(_version(model))

    async def place(self, model: str, count: int) -> float:
        """As place_s."""
        return place_s(self._engines[0], model, count)

    async def route(self, count: int) -> float:
        """The CPU time in which a gateway orders its generation instances for one call."""
        gateway = self._gateways[0]
        started_s = time.thread_time()
        for _ in range(count):
            gateway.by_preference("generation")
        return (time.thread_time() - started_s) / count

    async def usage(self) -> dict[str, float]:
        """What this process has used so far; memory is what only it has."""
        process = psutil.Process(os.getpid())
        times = process.cpu_times()
        return {
            "cpu_s": times.user + times.system,
            "memory_bytes": process.memory_full_info().uss,
            **totals(self._registries),
        }

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for gateway in self._gateways:
            await gateway.close()
        for registry in self._registries:
            await registry.close()


async def serve(
    consul: str,
    first: int,
    generations: int,
    gateways: int,
    check_interval_s: float,
    linked: bool = False,
) -> None:
    """Answers commands; the instances are added by one."""
    settings = ConsulSettings(address=consul, check_interval_s=check_interval_s)
    server, ports = await serving_ports(generations)
    host = MeshHost(settings, linked=linked)

    async def start() -> None:
        for number, port in enumerate(ports, first):
            await host.add_generation(number, port)
        for _ in range(gateways):
            await host.add_gateway()

    commands: dict[str, Handler] = {
        "start": start,
        "until_known": host.until_known,
        "until_connected": host.until_connected,
        "place": host.place,
        "route": host.route,
        "usage": host.usage,
    }
    await answer_commands(commands)
    await host.close()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))
