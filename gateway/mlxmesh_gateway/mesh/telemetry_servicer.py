"""TelemetryService: check, call, reply."""

from collections.abc import AsyncGenerator
from typing import Any

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh.telemetry.v1 import telemetry_pb2 as wire
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceServicer
from mlxmesh.telemetry.v1.traffic_pb2 import GetTrafficRequest, GetTrafficResponse
from mlxmesh_gateway.events.event_log import GatewayEventLog
from mlxmesh_gateway.forwarding.traffic import GatewayTraffic
from mlxmesh_gateway.mesh.status import MeshStatus
from mlxmesh_gateway.otlp.traces import Traces
from mlxmesh_shared.errors import InvalidArgument

MAX_EVENT_BYTES = 8 * 1024


class TelemetryServicer(TelemetryServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(
        self,
        *,
        status: MeshStatus,
        events: GatewayEventLog,
        traffic: GatewayTraffic,
        traces: Traces,
    ) -> None:
        self._status = status
        self._traces = traces
        self._events = events
        self._traffic = traffic

    async def GetMeshStatus(
        self, request: wire.GetMeshStatusRequest, context: Any
    ) -> wire.GetMeshStatusResponse:
        return await self._status.now()

    async def GetTrace(self, request: wire.GetTraceRequest, context: Any) -> wire.GetTraceResponse:
        return await self._traces.find(request)

    def WatchEvents(
        self, request: events.WatchEventsRequest, context: Any
    ) -> AsyncGenerator[events.WatchEventsResponse]:
        return self._events.watch(request)

    async def PublishEvents(
        self, request: events.PublishEventsRequest, context: Any
    ) -> events.PublishEventsResponse:
        # An older gateway drops fields that only a newer one knows: it cannot bound them.
        request.DiscardUnknownFields()
        for index, event in enumerate(request.events):
            _check(event, f"events[{index}]")
        self._events.add(request.events)
        return events.PublishEventsResponse()

    async def GetTraffic(self, request: GetTrafficRequest, context: Any) -> GetTrafficResponse:
        return GetTrafficResponse(models=self._traffic.counts())


def _check(event: events.Event, path: str) -> None:
    """Checks what the contract's rules cannot express. Raises: InvalidArgument."""
    if event.ByteSize() > MAX_EVENT_BYTES:
        raise InvalidArgument(f"{path} has more than {MAX_EVENT_BYTES} bytes", field=path)
    try:
        event.time.ToDatetime()
    except (OverflowError, ValueError):
        raise InvalidArgument(
            f"{path}.time must lie between the years 1 and 9999", field=f"{path}.time"
        ) from None
