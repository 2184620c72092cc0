"""Checks received telemetry: items that are too large or wrong are rejected. Pure.

Each accepted item is bounded, so that traces, queues and /metrics can count their memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mlxmesh_gateway.otlp.messages import ExportRequest, origin, points

MAX_ITEMS = 10_000
"""Spans, metrics or log records of one export."""
MAX_ITEM_BYTES = 2**20
"""Of a log record, or of a span, which may have a prompt if the settings say so."""
MAX_METRIC_BYTES = 256 * 1024
MAX_POINTS = 1000
"""Series of one metric."""
MAX_SOURCE_BYTES = 8 * 1024
"""Of a resource or a scope."""
MAX_NAME_CHARACTERS = 256
"""Of the names of a service and its instance."""
SLICE_ITEMS = 500
"""What is processed at once; other work runs between two slices."""

_METRIC_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.\-/]{0,254}")
_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8


class Accepted(NamedTuple):
    """The accepted part of an export."""

    slices: list[ExportRequest]
    rejected: int
    """Rejected spans, metric points or log records."""


def accept(request: ExportRequest) -> Accepted:
    """Takes the request apart, which the caller must not use again."""
    # Always a copy: rejected items must not stay in memory with accepted ones.
    slices: list[ExportRequest] = []
    taken = rejected = 0
    current, items = type(request)(), 0
    for resource, scope, whole in _sources(request):
        legal = whole and taken < MAX_ITEMS
        target: Any = None
        for item in _items(scope):
            if not (legal and taken < MAX_ITEMS and _is_legal(item)):
                rejected += _weight(item)
                continue
            if items >= SLICE_ITEMS:
                slices.append(current)
                current, items, target = type(request)(), 0, None
            if target is None:
                target = _items(_source(current, resource, scope))
            target.append(item)
            items += 1
            taken += 1
    if items:
        slices.append(current)
    return Accepted([_known_only(each) for each in slices], rejected)


def _sources(request: ExportRequest) -> Iterator[tuple[Any, Any, bool]]:
    """Each resource with each of its scopes, and whether it can be accepted."""
    for resource in _resources(request):
        is_legal = _fits(resource.resource, resource.schema_url) and all(
            len(name) <= MAX_NAME_CHARACTERS for name in origin(resource.resource)
        )
        for scope in _scopes(resource):
            yield resource, scope, is_legal and _fits(scope.scope, scope.schema_url)


def _fits(source: Any, schema_url: str) -> bool:
    return source.ByteSize() + len(schema_url) <= MAX_SOURCE_BYTES


def _source(request: ExportRequest, resource: Any, scope: Any) -> Any:
    """A new scope in the request, of the same source."""
    of_resource = _resources(request).add()
    if resource.HasField("resource"):
        of_resource.resource.CopyFrom(resource.resource)
    of_resource.schema_url = resource.schema_url
    of_scope = _scopes(of_resource).add()
    if scope.HasField("scope"):
        of_scope.scope.CopyFrom(scope.scope)
    of_scope.schema_url = scope.schema_url
    return of_scope


def _known_only(request: ExportRequest) -> ExportRequest:
    size_bytes = request.ByteSize()
    request.DiscardUnknownFields()
    if request.ByteSize() == size_bytes:
        return request
    return type(request).FromString(request.SerializeToString())


def _resources(request: ExportRequest) -> Any:
    if isinstance(request, ExportTraceServiceRequest):
        return request.resource_spans
    if isinstance(request, ExportLogsServiceRequest):
        return request.resource_logs
    return request.resource_metrics


_SCOPES = {"ResourceSpans": "scope_spans", "ResourceLogs": "scope_logs"}
_ITEMS = {"ScopeSpans": "spans", "ScopeLogs": "log_records"}


def _scopes(resource: Any) -> Any:
    return getattr(resource, _SCOPES.get(resource.DESCRIPTOR.name, "scope_metrics"))


def _items(scope: Any) -> Any:
    return getattr(scope, _ITEMS.get(scope.DESCRIPTOR.name, "metrics"))


def _weight(item: Any) -> int:
    return max(1, len(points(item))) if isinstance(item, Metric) else 1


def _is_legal(item: Any) -> bool:
    if isinstance(item, Metric):
        return is_legal_metric(item)
    if item.ByteSize() > MAX_ITEM_BYTES:
        return False
    return not isinstance(item, Span) or _has_ids(item)


def _has_ids(span: Span) -> bool:
    return (
        len(span.trace_id) == _TRACE_ID_BYTES
        and len(span.span_id) == _SPAN_ID_BYTES
        and len(span.parent_span_id) in (0, _SPAN_ID_BYTES)
    )


def is_legal_metric(metric: Metric) -> bool:
    """Whether sinks can process it. Source: OpenTelemetry, Metrics API, Instrument name syntax."""
    if metric.ByteSize() > MAX_METRIC_BYTES or _METRIC_NAME.fullmatch(metric.name) is None:
        return False
    if len(points(metric)) > MAX_POINTS:
        return False
    check: Callable[[Any], bool] | None = _POINT_CHECKS.get(metric.WhichOneof("data") or "")
    return check is None or all(map(check, points(metric)))


def _is_legal_histogram(point: HistogramDataPoint) -> bool:
    counts, bounds = len(point.bucket_counts), list(point.explicit_bounds)
    if counts != len(bounds) + 1 and (counts or bounds):
        return False
    return all(low < high for low, high in pairwise(bounds)) and _exemplars_have_ids(point)


def _exemplars_have_ids(point: Any) -> bool:
    return all(
        len(each.trace_id) in (0, _TRACE_ID_BYTES) and len(each.span_id) in (0, _SPAN_ID_BYTES)
        for each in point.exemplars
    )


_POINT_CHECKS: dict[str, Callable[[Any], bool]] = {
    "histogram": _is_legal_histogram,
    "sum": _exemplars_have_ids,
}
