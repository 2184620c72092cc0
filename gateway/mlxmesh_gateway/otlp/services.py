"""OTLP's services on the gateway's port: where every process of the mesh exports to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from mlxmesh_gateway.otlp.messages import SERVICES, OtlpService
from mlxmesh_shared.telemetry.sink import TelemetrySink


def otlp_handlers(sink: TelemetrySink) -> list[grpc.GenericRpcHandler]:
    """Handlers of the three services, all feeding one sink."""
    take = {"traces": sink.traces, "metrics": sink.metrics, "logs": sink.logs}
    return [_handler(service, take[signal]) for signal, service in SERVICES.items()]


def _handler(
    service: OtlpService, take: Callable[[Any], Awaitable[None]]
) -> grpc.GenericRpcHandler:
    async def export(request: Any, _context: Any) -> Any:
        await take(request)
        return service.response()

    method = grpc.unary_unary_rpc_method_handler(
        export,
        request_deserializer=service.request.FromString,
        response_serializer=service.response.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(service.name, {"Export": method})
