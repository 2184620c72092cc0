"""The fan-out's own metrics: the status of each sink."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Metric,
    NumberDataPoint,
)

from mlxmesh_gateway.otlp.lane import LaneStatus
from mlxmesh_shared.telemetry.log_records import attribute


class Instrument(NamedTuple):
    """One metric."""

    name: str
    unit: str
    description: str
    field: str
    """Of LaneStatus."""
    counter: bool


INSTRUMENTS = (
    Instrument(
        "mlxmesh.telemetry.sink.sent",
        "{item}",
        "Spans, points of metrics and log records that a sink of the gateway took.",
        "sent_items",
        counter=True,
    ),
    Instrument(
        "mlxmesh.telemetry.sink.dropped",
        "{item}",
        "Spans, points of metrics and log records that a sink of the gateway lost.",
        "dropped_items",
        counter=True,
    ),
    Instrument(
        "mlxmesh.telemetry.sink.queue.size",
        "By",
        "Bytes that wait for a sink of the gateway.",
        "queued_bytes",
        counter=False,
    ),
)


REJECTED = (
    "mlxmesh.telemetry.rejected",
    "{item}",
    "Spans, points of metrics and log records that the gateway did not take from their senders.",
)


def own_metrics(
    statuses: Sequence[LaneStatus], rejected: int, instance_id: str
) -> ExportMetricsServiceRequest:
    """The current values of this gateway's instruments."""
    request = ExportMetricsServiceRequest()
    one = request.resource_metrics.add()
    identity = {"service.name": "gateway", "service.instance.id": instance_id}
    one.resource.attributes.extend(attribute(key, value) for key, value in identity.items())
    scope = one.scope_metrics.add()
    scope.scope.name = "mlxmesh.gateway.telemetry"
    now_ns = time.time_ns()
    scope.metrics.extend(_metric(instrument, statuses, now_ns) for instrument in INSTRUMENTS)
    name, unit, description = REJECTED
    metric = scope.metrics.add(name=name, unit=unit, description=description)
    _count(metric, [NumberDataPoint(time_unix_nano=now_ns, as_int=rejected)])
    return request


def _metric(instrument: Instrument, statuses: Sequence[LaneStatus], now_ns: int) -> Metric:
    metric = Metric(name=instrument.name, unit=instrument.unit, description=instrument.description)
    points = [
        NumberDataPoint(
            time_unix_nano=now_ns,
            as_int=getattr(status, instrument.field),
            attributes=[attribute("sink", status.name)],
        )
        for status in statuses
    ]
    if instrument.counter:
        _count(metric, points)
    else:
        metric.gauge.data_points.extend(points)
    return metric


def _count(metric: Metric, points: Iterable[NumberDataPoint]) -> None:
    metric.sum.is_monotonic = True
    metric.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    metric.sum.data_points.extend(points)
