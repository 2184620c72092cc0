"""Sends telemetry to an OpenTelemetry collector by gRPC."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, cast

import grpc
from grpc import aio
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_gateway.otlp.messages import SERVICES, ExportRequest
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.rpc.error_status import from_rpc_error
from mlxmesh_shared.settings.sinks import Signal, SinkSettings

TIMEOUT_S = 10.0
# Not the options of the mesh's channels: a collector disconnects clients that ping often.
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.use_local_subchannel_pool", 1),
)


class CollectorSink:
    """Forwards each request unchanged; the caller closes the sink."""

    def __init__(self, settings: SinkSettings) -> None:
        """Raises: IllegalState when a file that the settings name cannot be used."""
        self._metadata = _headers(settings.headers_file)
        self._channel = _open(settings)
        self._export = {
            signal: self._channel.unary_unary(
                f"/{service.name}/Export",
                request_serializer=cast("Any", service.request.SerializeToString),
                response_deserializer=service.response.FromString,
            )
            for signal, service in SERVICES.items()
        }

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        """Raises: MeshError."""
        await self._send("traces", request)

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Raises: MeshError."""
        await self._send("metrics", request)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Raises: MeshError."""
        await self._send("logs", request)

    async def close(self) -> None:
        """Closes the connection."""
        await self._channel.close()

    async def _send(self, signal: Signal, request: ExportRequest) -> None:
        call: Any = self._export[signal]
        try:
            await call(request, timeout=TIMEOUT_S, metadata=self._metadata)
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def _open(settings: SinkSettings) -> aio.Channel:
    if not settings.tls:
        return aio.insecure_channel(settings.target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(settings.ca or _system_authorities()),
        private_key=_read(settings.key),
        certificate_chain=_read(settings.cert),
    )
    return aio.secure_channel(settings.target, credentials, options=_OPTIONS)


def _system_authorities() -> Path | None:
    """The file of the host's trusted authorities; None for gRPC's own list."""
    known = ssl.get_default_verify_paths().cafile
    return Path(known) if known else None


def _headers(path: Path | None) -> tuple[tuple[str, str], ...]:
    lines = (_read(path) or b"").decode().splitlines()
    pairs = (line.partition(":") for line in lines if line.strip())
    return tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise IllegalState(
            f"telemetry_sinks: cannot read {path}: {error.strerror}; fix the setting or the file"
        ) from error
