"""Spans, metrics and access records of the requests that the HTTP port serves."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import attach
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer

from mlxmesh_shared.telemetry.attributes import ERROR_TYPE
from mlxmesh_shared.telemetry.instruments import HTTP_DURATION
from mlxmesh_shared.telemetry.metrics import Telemetry
from mlxmesh_shared.telemetry.tracing import context_of

HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"

_access = logging.getLogger("mlxmesh.access")


class ServedRequests:
    """Measures the requests of clients; each begins or continues a trace."""

    def __init__(self, telemetry: Telemetry | None = None) -> None:
        telemetry = telemetry or Telemetry()
        self._tracer: Tracer = telemetry.tracer
        self._durations = telemetry.metrics.histogram(HTTP_DURATION)

    def begin(
        self, scope: Mapping[str, Any], route: str, headers: Mapping[str, str]
    ) -> ServedRequest:
        """Starts a request; its span becomes the current one of this task.

        route: the pattern of the path, never what a client wrote.
        """
        labels = {HTTP_METHOD: scope["method"], HTTP_ROUTE: route}
        span = self._tracer.start_span(
            f"{labels[HTTP_METHOD]} {labels[HTTP_ROUTE]}",
            context_of(headers.items()),
            SpanKind.SERVER,
            labels,
        )
        attach(trace.set_span_in_context(span))
        return ServedRequest(labels, span, self._durations.record, _peer(scope))


class ServedRequest:
    """One request."""

    def __init__(
        self, labels: dict[str, str], span: Span, record: Callable[..., None], peer: str
    ) -> None:
        self._labels = labels
        self._span = span
        self._record = record
        self._peer = peer
        self.principal = ""
        """Who makes it; empty before that is known."""

    def end(self, status: int, took_s: float) -> None:
        """Records how it ended; 499 for a client that went away before it got a response."""
        failed = {ERROR_TYPE: str(status)} if status >= 500 else {}
        self._record(took_s, {**self._labels, HTTP_STATUS: status, **failed})
        if self._span.is_recording():
            self._span.set_attributes({HTTP_STATUS: status, **failed})
            if failed:
                self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(time.time_ns())
        if _access.isEnabledFor(logging.INFO):
            method = f"{self._labels[HTTP_METHOD]} {self._labels[HTTP_ROUTE]}"
            outcome = {"code": status, "ms": round(took_s * 1000, 1), "peer": self._peer}
            who = {"principal": self.principal} if self.principal else {}
            fields = {"method": method, **outcome, **who}
            _access.info("call", extra={"operation": "access", "fields": fields})


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return f"{client[0]}:{client[1]}" if client else ""
