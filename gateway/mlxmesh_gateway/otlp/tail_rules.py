"""Selects the traces for sinks: all with errors and slow ones, and a part of the others. Pure.

A trace is decided when its root span has ended and every process had time to export its spans, or
after a hold time. Later spans follow the decision; a late error reverses it.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from mlxmesh_gateway.otlp.messages import failed, is_root, origin

SETTLE_S = 2.5
"""When a trace gets no more spans after the end of its root: processes export every second."""
_NS_PER_MS = 1_000_000
# The memory of a held span besides its bytes on the wire.
_SPAN_OVERHEAD_BYTES = 200


@dataclass(frozen=True)
class TailOptions:
    """Which traces are selected, and how much may be undecided."""

    export_ratio: float = 1.0
    slow_ms: float = 10_000
    hold_s: float = 60
    max_held_bytes: int = 16 * 2**20
    max_decisions: int = 50_000


class _Source(NamedTuple):
    """The resource and scope of adjacent spans in a message; `number` distinguishes them."""

    number: int
    service: str
    resource: ResourceSpans
    scope: ScopeSpans
    size_bytes: int
    """Of what says so."""


class _Gathered:
    """Copies of spans: a reference would retain the whole message of each."""

    def __init__(self) -> None:
        self.request = ExportTraceServiceRequest()
        self._last_source = 0

    def add(self, source: _Source, span: Span) -> int:
        """Takes a copy; returns its size.

        Adjacent spans of one source share its resource and scope.
        """
        size_bytes = span.ByteSize() + _SPAN_OVERHEAD_BYTES
        if source.number != self._last_source:
            self._last_source = source.number
            size_bytes += source.size_bytes
            of_resource = self.request.resource_spans.add(
                resource=source.resource.resource, schema_url=source.resource.schema_url
            )
            of_resource.scope_spans.add(
                scope=source.scope.scope, schema_url=source.scope.schema_url
            )
        self.request.resource_spans[-1].scope_spans[-1].spans.append(span)
        return size_bytes


@dataclass
class _Held:
    """An undecided trace."""

    decide_at_s: float
    spans: _Gathered = field(default_factory=_Gathered)
    size_bytes: int = 0
    keep: bool = False
    begin_ns: int = 2**63
    end_ns: int = 0

    def add(self, source: _Source, span: Span) -> int:
        """Takes a copy; returns its size."""
        size_bytes = self.spans.add(source, span)
        self.size_bytes += size_bytes
        self.begin_ns = min(self.begin_ns, span.start_time_unix_nano)
        self.end_ns = max(self.end_ns, span.end_time_unix_nano)
        self.keep = self.keep or failed(span)
        return size_bytes


class TailRules:
    """Holds traces until they are decided. The caller passes the time, in seconds."""

    def __init__(self, options: TailOptions) -> None:
        self._options = options
        self._held: OrderedDict[bytes, _Held] = OrderedDict()
        self._held_bytes = 0
        self._decisions: OrderedDict[bytes, bool] = OrderedDict()
        self._numbers = itertools.count(1)

    def add(
        self, request: ExportTraceServiceRequest, now_s: float
    ) -> Iterator[ExportTraceServiceRequest]:
        """Adds spans; returns those that are already selected."""
        if self._options.export_ratio >= 1:
            yield request
            return
        passing = _Gathered()
        for source in self._sources_of(request):
            for span in source.scope.spans:
                if self._passes(source, span, now_s):
                    passing.add(source, span)
        if passing.request.resource_spans:
            yield passing.request
        yield from self._make_room()

    @property
    def holds(self) -> bool:
        """Whether a trace is undecided."""
        return bool(self._held)

    def decided(self, now_s: float) -> Iterator[ExportTraceServiceRequest]:
        """The selected ones of the traces that are due."""
        due = [key for key, held in self._held.items() if held.decide_at_s <= now_s]
        for key in due:
            yield from self._decide(key)

    def _sources_of(self, request: ExportTraceServiceRequest) -> Iterator[_Source]:
        for resource in request.resource_spans:
            service = origin(resource.resource)[0]
            for scope in resource.scope_spans:
                size_bytes = resource.resource.ByteSize() + scope.scope.ByteSize()
                yield _Source(next(self._numbers), service, resource, scope, size_bytes)

    def _passes(self, source: _Source, span: Span, now_s: float) -> bool:
        """Whether its trace is already selected; else the span is held, or dropped."""
        decision = self._decisions.get(span.trace_id)
        if decision is not None:
            if not decision and (
                failed(span) or self._is_slow(span.start_time_unix_nano, span.end_time_unix_nano)
            ):
                decision = self._decisions[span.trace_id] = True
            return decision
        held = self._held.get(span.trace_id)
        if held is None:
            held = self._held[span.trace_id] = _Held(now_s + self._options.hold_s)
        self._held_bytes += held.add(source, span)
        if is_root(span, source.service):
            held.decide_at_s = min(held.decide_at_s, now_s + SETTLE_S)
        return False

    def _is_slow(self, begin_ns: int, end_ns: int) -> bool:
        return end_ns - begin_ns >= self._options.slow_ms * _NS_PER_MS

    def _make_room(self) -> Iterator[ExportTraceServiceRequest]:
        while self._held_bytes > self._options.max_held_bytes:
            yield from self._decide(next(iter(self._held)))

    def _decide(self, trace_id: bytes) -> Iterator[ExportTraceServiceRequest]:
        held = self._held.pop(trace_id)
        self._held_bytes -= held.size_bytes
        slow = self._is_slow(held.begin_ns, held.end_ns)
        keep = held.keep or slow or self._in_ratio(trace_id)
        self._decisions[trace_id] = keep
        if len(self._decisions) > self._options.max_decisions:
            self._decisions.popitem(last=False)
        if keep:
            yield held.spans.request

    def _in_ratio(self, trace_id: bytes) -> bool:
        # Every gateway decides alike. Source: OpenTelemetry, TraceIdRatioBased.
        return int.from_bytes(trace_id[-8:], "big") < self._options.export_ratio * 2**64
