"""Attacks by what a client tells: spans, metrics and events."""

from __future__ import annotations

import time
from collections import Counter

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh.telemetry.v1.events_pb2 import Event, PublishEventsRequest
from tests.chaos.attack_calls import (
    METRICS,
    MIB,
    PUBLISH,
    TRACES,
    Outcomes,
    calls,
    field,
)


async def empty_spans(address: str, for_s: float) -> Outcomes:
    """Millions of empty spans at once."""
    spans = field(1, field(2, b"\x12\x00" * (2 * MIB - 64)))
    return await calls(address, for_s, TRACES, lambda: spans)


async def large_service_names(address: str, for_s: float) -> Outcomes:
    """Processes with names of 3 MB, a new one each time."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    number = 0
    while time.monotonic() < until_s:
        number += 1
        name = f"{number:08d}" + "x" * (3 * MIB)
        traces, metrics = ExportTraceServiceRequest(), ExportMetricsServiceRequest()
        of_traces, of_metrics = traces.resource_spans.add(), metrics.resource_metrics.add()
        for resource in (of_traces.resource, of_metrics.resource):
            resource.attributes.add(key="service.name").value.string_value = name
        span = of_traces.scope_spans.add().spans.add(trace_id=number.to_bytes(16, "big"))
        span.span_id = bytes(8)
        metric = of_metrics.scope_metrics.add().metrics.add(name="a.gauge")
        metric.gauge.data_points.add(as_int=1)
        for path, request in ((TRACES, traces), (METRICS, metrics)):
            encoded = request.SerializeToString()
            outcomes += await calls(address, 0.01, path, lambda e=encoded: e, at_once=1)
    return outcomes


def broken_metrics() -> ExportMetricsServiceRequest:
    """Metrics that no page can show: wrong buckets, no name, ids of the wrong size."""
    request = ExportMetricsServiceRequest()
    one = request.resource_metrics.add()
    one.resource.attributes.add(key="service.name").value.string_value = "broken"
    metrics = one.scope_metrics.add().metrics
    for name in ("wrong.buckets", "", "1 illegal\nname"):
        point = metrics.add(name=name).histogram.data_points.add(count=3)
        point.explicit_bounds.extend([1, 2])
        point.bucket_counts.extend([1] if name else [1, 1, 1])
    exemplar = metrics.add(name="long.ids").sum.data_points.add(as_int=1).exemplars.add()
    exemplar.trace_id = exemplar.span_id = bytes(200)
    return request


async def many_series(address: str, for_s: float) -> Outcomes:
    """Broken metrics, and as many processes and series as fit."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    broken = broken_metrics().SerializeToString()
    outcomes += await calls(address, 0.01, METRICS, lambda: broken, at_once=1)
    process = 0
    while time.monotonic() < until_s:
        request = ExportMetricsServiceRequest()
        for _ in range(20):
            process += 1
            one = request.resource_metrics.add()
            attribute = one.resource.attributes.add(key="service.instance.id")
            attribute.value.string_value = f"process-{process}"
            for number in range(50):
                metric = one.scope_metrics.add().metrics.add(name=f"a.gauge.{number}")
                for series in range(5):
                    point = metric.gauge.data_points.add(as_int=series)
                    point.attributes.add(key="series").value.string_value = str(series)
        encoded = request.SerializeToString()
        outcomes += await calls(address, 0.01, METRICS, lambda e=encoded: e, at_once=1)
    return outcomes


async def large_events(address: str, for_s: float) -> Outcomes:
    """Events that bring megabytes which the contract does not know."""
    until_s, outcomes = time.monotonic() + for_s, Counter[str]()
    number = 0
    while time.monotonic() < until_s:
        number += 1
        event = Event(
            event_id=f"{number:024x}", name="model.deleted", service="m", instance_id="m-1"
        )
        event.time.GetCurrentTime()
        event.model_deleted.model = "pocket"
        request = PublishEventsRequest(events=[event]).SerializeToString()
        encoded = request + field(1000, bytes(15 * MIB))
        outcomes += await calls(address, 0.01, PUBLISH, lambda e=encoded: e, at_once=1)
    return outcomes
