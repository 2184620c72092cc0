"""The recent traces, in bounded memory: what `mlxmesh trace` shows. Pure.

Spans are stored as bytes: their size is then their cost, and no received message is retained.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mlxmesh_gateway.otlp.messages import attribute, origin
from mlxmesh_shared.telemetry.attributes import REQUEST_ID

# The memory of a span besides its bytes: the tuple, the list entry, the object header.
_SPAN_OVERHEAD_BYTES = 200
MAX_TRACE_SPANS = 2000
"""Of one trace; later ones are dropped. A request has about fifty at most."""
MAX_REQUEST_TRACES = 16
"""Of one request; the first ones stay."""


class KeptSpan(NamedTuple):
    """A span and the process that it belongs to."""

    service: str
    instance_id: str
    encoded: bytes

    @property
    def size_bytes(self) -> int:
        """Its memory."""
        names = len(self.service) + len(self.instance_id)
        return len(self.encoded) + names + _SPAN_OVERHEAD_BYTES

    def span(self) -> Span:
        """As it was received."""
        return Span.FromString(self.encoded)


@dataclass(frozen=True)
class KeepOptions:
    """How much is retained, and for how long."""

    max_traces: int = 4096
    max_bytes: int = 32 * 2**20
    max_age_s: float = 900


@dataclass
class KeptTrace:
    """A trace: its spans as received, and the times of the first and the last one."""

    first_s: float
    last_s: float
    request_ids: set[str] = field(default_factory=set[str])
    size_bytes: int = 0
    spans: list[KeptSpan] = field(default_factory=list[KeptSpan])


class RecentTraces:
    """Every recorded span of recent traces; the oldest trace is evicted first."""

    def __init__(self, options: KeepOptions) -> None:
        self.options = options
        self._traces: OrderedDict[bytes, KeptTrace] = OrderedDict()
        self._by_request: dict[str, list[bytes]] = {}
        self._size_bytes = 0

    def add(self, request: ExportTraceServiceRequest, now_s: float) -> None:
        """Stores the spans. The caller passes the time, in seconds."""
        for resource in request.resource_spans:
            service, instance_id = origin(resource.resource)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    kept = KeptSpan(service, instance_id, span.SerializeToString())
                    self._keep(span, kept, now_s)
        while len(self._traces) > self.options.max_traces or (
            self._size_bytes > self.options.max_bytes
        ):
            self._forget(next(iter(self._traces)))

    def expire(self, now_s: float) -> None:
        """Removes what is too old."""
        while self._traces:
            trace_id, oldest = next(iter(self._traces.items()))
            if now_s - oldest.first_s < self.options.max_age_s:
                return
            self._forget(trace_id)

    def of_request(self, request_id: str) -> list[KeptTrace]:
        """All traces of a request."""
        return [self._traces[trace_id] for trace_id in self._by_request.get(request_id, ())]

    def of_trace(self, trace_id: bytes) -> list[KeptTrace]:
        """The trace of that id, if it is here."""
        trace = self._traces.get(trace_id)
        return [] if trace is None else [trace]

    def _keep(self, span: Span, kept: KeptSpan, now_s: float) -> None:
        trace = self._traces.get(span.trace_id)
        if trace is None:
            trace = self._traces[span.trace_id] = KeptTrace(now_s, now_s)
        if len(trace.spans) >= MAX_TRACE_SPANS:
            return
        trace.last_s = now_s
        trace.spans.append(kept)
        size_bytes = kept.size_bytes
        trace.size_bytes += size_bytes
        self._size_bytes += size_bytes
        request_id = attribute(span.attributes, REQUEST_ID)
        if request_id and request_id not in trace.request_ids:
            traces = self._by_request.setdefault(request_id, [])
            if len(traces) < MAX_REQUEST_TRACES:
                trace.request_ids.add(request_id)
                traces.append(span.trace_id)

    def _forget(self, trace_id: bytes) -> None:
        trace = self._traces.pop(trace_id)
        self._size_bytes -= trace.size_bytes
        for request_id in trace.request_ids:
            others = self._by_request[request_id]
            others.remove(trace_id)
            if not others:
                del self._by_request[request_id]
