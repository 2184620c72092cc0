"""TelemetryService: the whole mesh as this gateway sees it."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceServicer
from mlxmesh_gateway import probes
from mlxmesh_gateway.backends import Backends, Endpoint
from mlxmesh_gateway.otlp.convert import sink_message
from mlxmesh_gateway.otlp.lane import LaneStatus
from mlxmesh_gateway.otlp.traces import Traces
from mlxmesh_shared.channels import open_channel
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


class MeshStatusServicer(TelemetryServiceServicer):
    """Asks every process at once, afresh each time: nothing is kept between two calls."""

    def __init__(
        self,
        registry: Registry,
        backends: Backends,
        certificates: CertificateSource | None = None,
        *,
        traces: Traces,
        sinks: Callable[[], Iterable[LaneStatus]],
    ) -> None:
        self._registry = registry
        self._backends = backends
        self._certificates = certificates
        self._traces = traces
        self._sinks = sinks

    async def GetMeshStatus(
        self, request: wire.GetMeshStatusRequest, context: Any
    ) -> wire.GetMeshStatusResponse:
        asked = [self._asked(instance) for instance in await self._instances()]
        answers = await asyncio.gather(*asked)
        breakers = _worst_by_engine([seen for _, engines in answers for seen in engines])
        instances = [instance for instance, _ in answers]
        for instance in instances:
            if instance.service == "engine" and instance.instance_id in breakers:
                instance.breaker.CopyFrom(breakers[instance.instance_id])
        sinks = [sink_message(sink) for sink in self._sinks()]
        return wire.GetMeshStatusResponse(instances=instances, telemetry_sinks=sinks)

    async def GetTrace(self, request: wire.GetTraceRequest, context: Any) -> wire.GetTraceResponse:
        return await self._traces.find(request)

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

    async def _asked(self, instance: Instance) -> tuple[wire.Instance, Sequence[wire.Instance]]:
        """An instance with all that it answered, and the engines as it sees them."""
        message = instance_message(instance)
        self._add_own_view(message)
        message.health, engines = await asyncio.gather(
            probes.health_of(instance, self._certificates), self._ask_more(message)
        )
        return message, engines

    async def _ask_more(self, message: wire.Instance) -> Sequence[wire.Instance]:
        """An engine's load goes into its message; a generation instance tells of the engines."""
        service, address = message.service, message.address
        async with open_channel(address, role=service, certificates=self._certificates) as channel:
            if service == "generation":
                return await probes.engines_seen(channel)
            if service == "engine":
                load = await probes.engine_load(channel)
                message.load.CopyFrom(load)
                message.outstanding = load.running + load.waiting
            return ()

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
