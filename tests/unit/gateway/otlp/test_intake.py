"""What senders may send: everything else is left out and counted, and nothing of it is kept."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mlxmesh_gateway.otlp.intake import (
    MAX_ITEM_BYTES,
    MAX_ITEMS,
    MAX_METRIC_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_POINTS,
    MAX_SOURCE_BYTES,
    SLICE_ITEMS,
    accept,
)
from mlxmesh_gateway.otlp.messages import item_count, origin
from tests.fakes.telemetry import counter, gauge, metrics, span, traces

UNKNOWN = ((b"\x64", 100), (b"\x80\x80\x40", 2**20))
"""Sizes of unknown fields, encoded and as numbers."""


def accepted_spans(*spans: Span, service: str = "engine") -> tuple[int, int]:
    accepted = accept(traces(*spans, service=service))
    return sum(map(item_count, accepted.slices)), accepted.rejected


def changed(**fields: Any) -> Span:
    changed = span(1)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def test_legal_telemetry_passes_as_it_is() -> None:
    for request in (traces(span(1), span(2)), metrics(gauge("a", 1), counter("b", 2))):
        assert accept(request).slices == [request]
        assert accept(request).rejected == 0
    logs = ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add().body.string_value = "ready"
    assert accept(logs) == ([logs], 0)


@pytest.mark.parametrize(
    "bad",
    [
        Span(),
        changed(trace_id=b"short"),
        changed(span_id=bytes(9)),
        changed(parent_span_id=bytes(1)),
        changed(name="x" * MAX_ITEM_BYTES),
    ],
    ids=["empty", "trace id", "span id", "parent", "size"],
)
def test_a_bad_span_is_left_out(bad: Span) -> None:
    assert accepted_spans(span(1), bad, span(2)) == (2, 1)


@pytest.mark.parametrize(("length", "kept"), [(250, 2), (MAX_NAME_CHARACTERS + 1, 0), (10**6, 0)])
def test_nothing_of_a_process_with_a_long_name_is_taken(length: int, kept: int) -> None:
    assert accepted_spans(span(1), span(2), service="x" * length) == (kept, 2 - kept)


def test_nothing_of_a_large_source_is_taken() -> None:
    for part in ("resource", "schema_url", "scope"):
        request = traces(span(1))
        one = request.resource_spans[0]
        if part == "resource":
            one.resource.attributes.add(key="x" * MAX_SOURCE_BYTES)
        elif part == "schema_url":
            one.schema_url = "x" * (MAX_SOURCE_BYTES + 1)
        else:
            one.scope_spans[0].scope.name = "x" * (MAX_SOURCE_BYTES + 1)
        assert accept(request) == ([], 1), part


def test_unknown_fields_are_dropped() -> None:
    small, large = (b"\xfa\x3f" + size + bytes(count) for size, count in UNKNOWN)
    request = ExportTraceServiceRequest.FromString(traces(span(1)).SerializeToString() + large)
    request.resource_spans[0].scope_spans[0].spans[0].MergeFromString(small)

    assert accept(request) == ([traces(span(1))], 0)


def test_only_so_many_items_are_taken_in_slices_of_one_source_each() -> None:
    request = traces(*(span(number) for number in range(1, MAX_ITEMS + 10)))
    accepted = accept(request)
    assert accepted.rejected == 9
    assert [item_count(each) for each in accepted.slices] == [SLICE_ITEMS] * (
        MAX_ITEMS // SLICE_ITEMS
    )
    for each in accepted.slices:
        assert isinstance(each, ExportTraceServiceRequest)
        assert origin(each.resource_spans[0].resource)[0] == "gateway"


def histogram(counts: list[int], bounds: list[float]) -> Metric:
    metric = Metric(name="a.histogram")
    metric.histogram.data_points.add(bucket_counts=counts, explicit_bounds=bounds)
    return metric


def with_exemplar(**ids: bytes) -> Metric:
    metric = counter("a", 1)
    metric.sum.data_points[0].exemplars.add(**ids)
    return metric


def wide(points: int) -> Metric:
    metric = Metric(name="wide")
    for number in range(points):
        metric.gauge.data_points.add(as_int=number)
    return metric


@pytest.mark.parametrize(
    ("metric", "legal"),
    [
        (gauge("a.b-c/d_e", 1), True),
        (gauge("", 1), False),
        (gauge("1a", 1), False),
        (gauge("a\nb", 1), False),
        (gauge("a" * 256, 1), False),
        (histogram([1, 2], [0.5]), True),
        (histogram([], []), True),
        (histogram([1], []), True),
        (histogram([1], [0.5]), False),
        (histogram([1, 2, 3], [0.5]), False),
        (histogram([], [0.5]), False),
        (histogram([1, 2, 3], [0.5, 0.5]), False),
        (histogram([1, 2, 3], [float("nan"), 1]), False),
        (with_exemplar(trace_id=bytes(16), span_id=bytes(8)), True),
        (with_exemplar(trace_id=bytes(200)), False),
        (with_exemplar(span_id=bytes(200)), False),
        (wide(MAX_POINTS), True),
        (wide(MAX_POINTS + 1), False),
        (Metric(name="a", description="x" * MAX_METRIC_BYTES), False),
    ],
)
def test_metrics(metric: Metric, legal: bool) -> None:
    accepted = accept(metrics(metric, gauge("other", 1)))
    (kept,) = accepted.slices
    assert isinstance(kept, ExportMetricsServiceRequest)
    names = [each.name for each in kept.resource_metrics[0].scope_metrics[0].metrics]
    assert names == ([metric.name] if legal else []) + ["other"]
    assert (accepted.rejected > 0) == (not legal)
