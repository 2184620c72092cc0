"""OTLP over gRPC: to the collecting gateway of the mesh, or to another collector."""

import time
from collections.abc import Callable
from typing import Any

from grpc import aio
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import (  # pyright: ignore[reportMissingTypeStubs]
    LogsServiceStub,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from mlxmesh_shared.errors import MeshError, ServiceUnavailable
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.telemetry.sink import TelemetrySink

LOOKUP_INTERVAL_S = 5.0
OpenChannel = Callable[[str], aio.Channel]


class OtlpSink:
    """Satisfies TelemetrySink: a server of OTLP at the other end of a channel."""

    def __init__(self, channel: aio.Channel) -> None:
        """The sink owns the channel and closes it."""
        self._channel = channel
        # Their stubs have no types.
        self._traces: Any = TraceServiceStub(channel)
        self._metrics: Any = MetricsServiceStub(channel)
        self._logs: Any = LogsServiceStub(channel)

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        await self._traces.Export(request)

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        await self._metrics.Export(request)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        await self._logs.Export(request)

    async def close(self) -> None:
        await self._channel.close()


class CollectingGateway:
    """Satisfies TelemetrySink: the gateway with the smallest id, which thus has whole traces.

    At that gateway itself, telemetry goes to `local`. Raises: ServiceUnavailable without a gateway.
    """

    def __init__(
        self,
        registry: Registry,
        open_: OpenChannel,
        *,
        own_id: str = "",
        local: TelemetrySink | None = None,
        lookup_interval_s: float = LOOKUP_INTERVAL_S,
    ) -> None:
        self._registry = registry
        self._open = open_
        self._own_id = own_id
        self._local = local
        self._look_again_s = lookup_interval_s
        self._resolved_s: float | None = None
        self._gateway: Instance | None = None
        self._remote: OtlpSink | None = None

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        await (await self._sink()).traces(request)

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        await (await self._sink()).metrics(request)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        await (await self._sink()).logs(request)

    async def close(self) -> None:
        remote, self._remote = self._remote, None
        if remote is not None:
            await remote.close()

    async def _sink(self) -> TelemetrySink:
        now_s = time.monotonic()
        if self._resolved_s is None or now_s - self._resolved_s >= self._look_again_s:
            await self._resolve()
            self._resolved_s = now_s if self._gateway is not None else None
        if self._gateway is None:
            raise ServiceUnavailable("no gateway is running to collect telemetry")
        if self._gateway.instance_id == self._own_id and self._local is not None:
            return self._local
        self._remote = self._remote or OtlpSink(self._open(self._gateway.address))
        return self._remote

    async def _resolve(self) -> None:
        """Finds the collecting gateway; keeps the known one if the registry fails or has none."""
        try:
            gateways = await self._registry.resolve("gateway")
        except (MeshError, OSError):
            return
        chosen = min(gateways, key=lambda one: one.instance_id, default=self._gateway)
        if _place(chosen) != _place(self._gateway):
            await self.close()
        self._gateway = chosen


def _place(gateway: Instance | None) -> tuple[str, str] | None:
    return None if gateway is None else (gateway.instance_id, gateway.address)
