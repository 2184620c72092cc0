"""The whole mesh as this gateway sees it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh.telemetry.v1.traffic_pb2 import TrafficCounts
from mlxmesh_gateway import probes
from mlxmesh_gateway.backends import Backends, Endpoint
from mlxmesh_gateway.otlp.convert import sink_message
from mlxmesh_gateway.otlp.lane import LaneStatus
from mlxmesh_gateway.traffic import GatewayTraffic, merged, total
from mlxmesh_shared.channels import PATIENT, open_channel
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.mesh_status import breaker_message, instance_message
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.tls import CertificateSource

SERVICES = ("gateway", "generation", "model", "runtime", "engine")

_SEVERITY = (
    wire.BREAKER_STATE_UNSPECIFIED,
    wire.BREAKER_STATE_CLOSED,
    wire.BREAKER_STATE_HALF_OPEN,
    wire.BREAKER_STATE_OPEN,
)


@dataclass
class _Answer:
    """An instance with all that it answered, and what it told of others."""

    instance: wire.Instance
    engines: Sequence[wire.Instance] = ()
    traffic: Sequence[TrafficCounts] = ()


class MeshStatus:
    """Asks every process at once, afresh each time: nothing is kept between two calls."""

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
        self._registry = registry
        self._backends = backends
        self._own_id = own_id
        self._traffic = traffic
        self._certificates = certificates
        self._sinks = sinks

    async def now(self) -> wire.GetMeshStatusResponse:
        """Everything, within about a second."""
        asked = [self._asked(instance) for instance in await self._instances()]
        answers = await asyncio.gather(*asked)
        breakers = _worst_by_engine([seen for one in answers for seen in one.engines])
        instances = [one.instance for one in answers]
        for instance in instances:
            if instance.service == "engine" and instance.instance_id in breakers:
                instance.breaker.CopyFrom(breakers[instance.instance_id])
        traffic = merged(counts for one in answers for counts in one.traffic)
        sinks = [sink_message(sink) for sink in self._sinks()]
        return wire.GetMeshStatusResponse(
            instances=instances, traffic=traffic, telemetry_sinks=sinks
        )

    async def _instances(self) -> list[Instance]:
        """Those of the registry, and those that this gateway still uses though it lacks them."""
        named = await asyncio.gather(*(self._resolve(service) for service in SERVICES))
        known = {(one.service, one.instance_id): one for group in named for one in group}
        for endpoint in self._backends.endpoints():
            one = endpoint.instance
            known.setdefault((one.service, one.instance_id), one)
        return sorted(
            known.values(), key=lambda one: (SERVICES.index(one.service), one.instance_id)
        )

    async def _resolve(self, service: str) -> Sequence[Instance]:
        try:
            return await self._registry.resolve(service)
        except (MeshError, OSError):
            return ()  # a registry that is ill must not hide what this gateway knows itself

    async def _asked(self, instance: Instance) -> _Answer:
        answer = _Answer(instance_message(instance))
        self._add_own_view(answer.instance)
        answer.instance.health, _ = await asyncio.gather(
            probes.health_of(instance, self._certificates), self._ask_more(answer)
        )
        return answer

    async def _ask_more(self, answer: _Answer) -> None:
        """An engine tells its load, a generation instance of the engines, a gateway its traffic."""
        message = answer.instance
        service, address = message.service, message.address
        async with open_channel(
            address, role=service, certificates=self._certificates, patience=PATIENT
        ) as channel:
            if service == "generation":
                answer.engines = await probes.engines_seen(channel)
            elif service == "engine":
                load = await probes.engine_load(channel)
                message.load.CopyFrom(load)
                message.outstanding = load.running + load.waiting
            elif service == "gateway":
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
    """One breaker for each engine: of all generation instances' the one that is furthest open."""
    worst: dict[str, wire.Breaker] = {}
    for engine in sorted(seen, key=_severity):
        worst[engine.instance_id] = engine.breaker
    return worst


def _severity(engine: wire.Instance) -> tuple[int, int]:
    return _SEVERITY.index(engine.breaker.state), engine.breaker.failures
