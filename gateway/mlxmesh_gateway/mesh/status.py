"""The whole mesh as this gateway sees it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from grpc import aio

from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh.telemetry.v1.traffic_pb2 import TrafficCounts
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.endpoint import Endpoint
from mlxmesh_gateway.forwarding.traffic import GatewayTraffic, merged, total
from mlxmesh_gateway.mesh import probes
from mlxmesh_gateway.mesh.processes import ProcessChannels
from mlxmesh_gateway.otlp.convert import sink_message
from mlxmesh_gateway.otlp.lane import LaneStatus
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.registry.convert import breaker_message, instance_message
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateSource
from mlxmesh_shared.tls.identity import SERVER_ROLES

SERVICES = SERVER_ROLES
"""The registered services: each has a role of its own."""

_SEVERITY = (
    wire.BREAKER_STATE_UNSPECIFIED,
    wire.BREAKER_STATE_CLOSED,
    wire.BREAKER_STATE_HALF_OPEN,
    wire.BREAKER_STATE_OPEN,
)


@dataclass
class _Answer:
    """An instance with its own answers, and what it reported about others."""

    instance: wire.Instance
    engines: Sequence[wire.Instance] = ()
    traffic: Sequence[TrafficCounts] = ()


class MeshStatus:
    """Asks every process concurrently, over one connection each that is kept for the next time.

    Answers are not cached; calls that arrive while one runs share its result.
    """

    def __init__(
        self,
        registry: Registry,
        backends: Backends,
        *,
        own_id: str,
        traffic: GatewayTraffic,
        certificates: CertificateSource | None = None,
        sinks: Callable[[], Iterable[LaneStatus]],
    ) -> None:
        self._backends = backends
        self._own_id = own_id
        self._traffic = traffic
        self._sinks = sinks
        self._processes = ProcessChannels(
            registry, partial(open_channel, certificates=certificates, timeouts=LONG_TIMEOUTS)
        )
        self._running: asyncio.Task[wire.GetMeshStatusResponse] | None = None

    async def now(self) -> wire.GetMeshStatusResponse:
        """The whole status, within about a second."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._ask_all())
        # A caller that stops waiting must not end it for the others.
        return await asyncio.shield(self._running)

    async def close(self) -> None:
        """Closes its connections."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._processes.close()

    async def _ask_all(self) -> wire.GetMeshStatusResponse:
        instances = await self._instances()
        await self._processes.keep_only(instances)
        answers = await asyncio.gather(*(self._asked(instance) for instance in instances))
        breakers = _worst_by_engine([seen for one in answers for seen in one.engines])
        told = [one.instance for one in answers]
        for instance in told:
            if instance.service == "engine" and instance.instance_id in breakers:
                instance.breaker.CopyFrom(breakers[instance.instance_id])
        traffic = merged(counts for one in answers for counts in one.traffic)
        sinks = [sink_message(sink) for sink in self._sinks()]
        return wire.GetMeshStatusResponse(instances=told, traffic=traffic, telemetry_sinks=sinks)

    async def _instances(self) -> list[Instance]:
        """The registered instances, and others that this gateway still uses."""
        named = await self._processes.resolve_all(SERVICES)
        known = {(one.service, one.instance_id): one for one in named}
        for endpoint in self._backends.endpoints():
            one = endpoint.instance
            known.setdefault((one.service, one.instance_id), one)
        return sorted(
            known.values(), key=lambda one: (SERVICES.index(one.service), one.instance_id)
        )

    async def _asked(self, instance: Instance) -> _Answer:
        answer = _Answer(instance_message(instance))
        self._add_own_view(answer.instance)
        channel = self._processes.channel(instance)
        answer.instance.health, _ = await asyncio.gather(
            probes.health_of(channel), self._ask_more(answer, channel)
        )
        return answer

    async def _ask_more(self, answer: _Answer, channel: aio.Channel) -> None:
        """An engine reports its load, a generation instance its engines, a gateway its traffic."""
        message = answer.instance
        if message.service == "generation":
            answer.engines = await probes.engines_seen(channel)
        elif message.service == "engine":
            load = await probes.engine_load(channel)
            message.load.CopyFrom(load)
            message.outstanding = load.running + load.waiting
        elif message.service == "gateway":
            own = message.instance_id == self._own_id
            counts = self._traffic.counts() if own else await probes.traffic(channel)
            if counts is not None:
                answer.traffic = counts
                message.traffic.CopyFrom(total(counts))

    def _add_own_view(self, message: wire.Instance) -> None:
        endpoint = self._endpoint(message.service, message.instance_id, message.address)
        if endpoint is not None:
            message.outstanding = endpoint.outstanding
            message.breaker.CopyFrom(breaker_message(endpoint.breaker))

    def _endpoint(self, service: str, instance_id: str, address: str) -> Endpoint | None:
        for endpoint in self._backends.endpoints():
            one = endpoint.instance
            if (one.service, one.instance_id, one.address) == (service, instance_id, address):
                return endpoint
        return None


def _worst_by_engine(seen: Sequence[wire.Instance]) -> dict[str, wire.Breaker]:
    """One breaker per engine: the most open one of all generation instances."""
    worst: dict[str, wire.Breaker] = {}
    for engine in sorted(seen, key=_severity):
        worst[engine.instance_id] = engine.breaker
    return worst


def _severity(engine: wire.Instance) -> tuple[int, int]:
    return _SEVERITY.index(engine.breaker.state), engine.breaker.failures
