"""The client's methods for the state of the mesh, its events and its traces."""

from collections.abc import AsyncGenerator, Callable, Sequence

from mlxmesh.telemetry.v1 import telemetry_pb2 as telemetry_pb
from mlxmesh.telemetry.v1.events_pb2 import WatchEventsRequest, WatchEventsResponse
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceStub
from mlxmesh_client.calls import Calls
from mlxmesh_client.following import follow
from mlxmesh_shared.errors import MeshError


class TelemetryMethods:
    """One method per RPC of TelemetryService, and some that combine them."""

    _calls: Calls
    _telemetry: TelemetryServiceStub

    async def mesh_status(self, *, timeout_s: float | None = None) -> list[telemetry_pb.Instance]:
        """Returns every process of the mesh as the gateway sees it, by service and id."""
        return list((await self.mesh_state(timeout_s=timeout_s)).instances)

    async def mesh_state(
        self, *, timeout_s: float | None = None
    ) -> telemetry_pb.GetMeshStatusResponse:
        """Returns every process of the mesh, and the gateways' traffic of the last minute."""
        request = telemetry_pb.GetMeshStatusRequest()
        return await self._calls.unary(self._telemetry.GetMeshStatus, request, timeout_s, safe=True)

    def watch_events(
        self,
        *,
        after_sequence: int | None = None,
        log_id: str = "",
        names: Sequence[str] = (),
        services: Sequence[str] = (),
        correlation_id: str = "",
        timeout_s: float | None = None,
    ) -> AsyncGenerator[WatchEventsResponse]:
        """Yields the events that the gateway retains, EventsSynced, then each new event.

        To resume, pass `sequence` and `log_id` of the last message. A name is exact, or a prefix
        such as `model.*`.
        """
        request = WatchEventsRequest(
            after_sequence=after_sequence,
            log_id=log_id,
            names=names,
            services=services,
            correlation_id=correlation_id,
        )
        return self._calls.stream(self._telemetry.WatchEvents, request, timeout_s, safe=True)

    def follow_events(
        self,
        *,
        after_sequence: int | None = None,
        names: Sequence[str] = (),
        services: Sequence[str] = (),
        correlation_id: str = "",
        on_lost: Callable[[MeshError], None] = lambda _: None,
    ) -> AsyncGenerator[WatchEventsResponse]:
        """Like watch_events, but reconnects whenever the gateway is lost, and never ends.

        `on_lost` is called after each loss. A Gap reports the events that may be missing.
        """

        def open_(sequence: int | None, log_id: str) -> AsyncGenerator[WatchEventsResponse]:
            return self.watch_events(
                after_sequence=sequence,
                log_id=log_id,
                names=names,
                services=services,
                correlation_id=correlation_id,
            )

        return follow(open_, after_sequence, on_lost=on_lost)

    async def telemetry_sinks(
        self, *, timeout_s: float | None = None
    ) -> list[telemetry_pb.TelemetrySink]:
        """Returns the gateway's telemetry sinks, and how much each one exported and dropped."""
        return list((await self.mesh_state(timeout_s=timeout_s)).telemetry_sinks)

    async def trace(
        self, request_id: str = "", *, trace_id: str = "", timeout_s: float | None = None
    ) -> telemetry_pb.GetTraceResponse:
        """Returns the spans of one request, by request id or trace id. Raises: TraceNotFound."""
        by_trace = telemetry_pb.GetTraceRequest(trace_id=trace_id)
        request = by_trace if trace_id else telemetry_pb.GetTraceRequest(request_id=request_id)
        return await self._calls.unary(self._telemetry.GetTrace, request, timeout_s, safe=True)
