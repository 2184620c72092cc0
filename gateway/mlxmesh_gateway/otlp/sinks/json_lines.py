"""Writes telemetry to a file of JSON lines: one OTLP request per line, in OTLP's own JSON.

The collector's `otlpjsonfile` receiver reads such files, and so does jq.
"""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any, cast

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_gateway.otlp.messages import ExportRequest

# OTLP writes ids in hexadecimal, protobuf's JSON in base64.
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


class JsonLinesSink:
    """Appends to a file; when it is full, renames it to FILE.1 and starts a new one."""

    def __init__(self, path: Path, *, max_bytes: int, keep_files: int) -> None:
        self._path = path.expanduser().absolute()
        self._max_bytes = max_bytes
        self._keep_files = keep_files

    async def traces(self, request: ExportTraceServiceRequest) -> None:
        """Raises: OSError."""
        await self._write(request)

    async def metrics(self, request: ExportMetricsServiceRequest) -> None:
        """Raises: OSError."""
        await self._write(request)

    async def logs(self, request: ExportLogsServiceRequest) -> None:
        """Raises: OSError."""
        await self._write(request)

    async def close(self) -> None:
        """No file stays open between two requests."""

    async def _write(self, request: ExportRequest) -> None:
        # On a thread: encoding takes tens of milliseconds, and a disk may take any time.
        await asyncio.to_thread(self._append, request)

    def _append(self, request: ExportRequest) -> None:
        line = json_line(request).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size + len(line) > self._max_bytes:
            self._rotate()
        with self._path.open("ab") as file:
            file.write(line)

    def _rotate(self) -> None:
        for number in range(self._keep_files, 0, -1):
            newer = self._aside(number - 1)
            if newer.exists():
                newer.replace(self._aside(number))

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def json_line(request: ExportRequest) -> str:
    """A request in OTLP's JSON, on one line. Source: OTLP 1.x, JSON Protobuf Encoding."""
    fields = MessageToDict(request, use_integers_for_enums=True)
    return json.dumps(_with_hex_ids(fields), ensure_ascii=False, separators=(",", ":"))


def _with_hex_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_hex_ids(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        return {
            key: base64.b64decode(each).hex() if key in _IDS else _with_hex_ids(each)
            for key, each in fields.items()
        }
    return value
