"""OTLP metrics as Prometheus reads them: names, labels, buckets, exemplars. Pure.

Source: OpenTelemetry, Prometheus and OpenMetrics Compatibility.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    HistogramDataPoint,
    NumberDataPoint,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as OtlpMetric
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar

from mlxmesh_gateway.otlp.intake import is_legal_metric
from mlxmesh_gateway.otlp.messages import texts
from mlxmesh_gateway.otlp.sinks.prometheus import ProcessMetrics

_UNITS = {"s": "seconds", "ms": "milliseconds", "By": "bytes"}
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_]")


def expose(processes: Iterable[ProcessMetrics], accept: str) -> tuple[bytes, str]:
    """The page in the format that the scraper accepts, and its content type."""
    families = _families(processes)

    class Collected:
        def collect(self) -> Iterable[Metric]:
            return families

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected())
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def prometheus_name(name: str, unit: str) -> str:
    """A metric's name in Prometheus, without the endings of its samples (_total, _bucket ...)."""
    legal = _legal(name)
    suffix = _UNITS.get(unit, "")
    return legal if not suffix or legal.endswith(f"_{suffix}") else f"{legal}_{suffix}"


def _legal(name: str) -> str:
    legal = _ILLEGAL.sub("_", name)
    return f"_{legal}" if not legal or legal[0].isdigit() else legal


def _families(processes: Iterable[ProcessMetrics]) -> list[Metric]:
    """One family per name, with the samples of every process that has it."""
    families: dict[str, Metric] = {}
    for process in processes:
        # A copy: this runs on a thread, and new ones may come meanwhile.
        for metric in list(process.by_name.values()):
            kind = _kind(metric)
            # An error in one process's metrics must not remove the others' from the page.
            if kind is None or not is_legal_metric(metric):
                continue
            name = prometheus_name(metric.name, metric.unit)
            unit = _UNITS.get(metric.unit, "")
            family = families.setdefault(name, Metric(name, metric.description, kind, unit))
            if family.type == kind:
                _ADD[kind](family, metric, process)
    return [families[name] for name in sorted(families)]


def _kind(metric: OtlpMetric) -> str | None:
    """gauge, counter or histogram; None for a kind that Prometheus does not have."""
    delta = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    match metric.WhichOneof("data"):
        case "gauge":
            return "gauge"
        case "sum" if not metric.sum.is_monotonic:
            return "gauge"
        case "sum" if metric.sum.aggregation_temporality != delta:
            return "counter"
        case "histogram" if metric.histogram.aggregation_temporality != delta:
            return "histogram"
        case _:
            return None


def _add_gauge(family: Metric, metric: OtlpMetric, process: ProcessMetrics) -> None:
    for point in metric.gauge.data_points or metric.sum.data_points:
        family.add_sample(family.name, _labels(point, process), _number(point))


def _add_counter(family: Metric, metric: OtlpMetric, process: ProcessMetrics) -> None:
    for point in metric.sum.data_points:
        exemplar = next(_exemplars(point), None)
        labels = _labels(point, process)
        family.add_sample(f"{family.name}_total", labels, _number(point), exemplar=exemplar)


def _add_histogram(family: Metric, metric: OtlpMetric, process: ProcessMetrics) -> None:
    for point in metric.histogram.data_points:
        labels = _labels(point, process)
        bounds = list(point.explicit_bounds)
        newest = {bisect_left(bounds, each.value): each for each in _exemplars(point)}
        counts = accumulate(point.bucket_counts or [point.count])
        for index, (bound, count) in enumerate(zip([*bounds, float("inf")], counts, strict=True)):
            bucket = {**labels, "le": _bound(bound)}
            family.add_sample(f"{family.name}_bucket", bucket, count, exemplar=newest.get(index))
        family.add_sample(f"{family.name}_count", labels, point.count)
        family.add_sample(f"{family.name}_sum", labels, point.sum)


_ADD: dict[str, Callable[[Metric, OtlpMetric, ProcessMetrics], None]] = {
    "gauge": _add_gauge,
    "counter": _add_counter,
    "histogram": _add_histogram,
}


def _labels(point: Any, process: ProcessMetrics) -> dict[str, str]:
    """The point's attributes; the process's own names come first."""
    own = {"service": process.service, "instance": process.instance_id}
    given = {_legal(key): value for key, value in texts(point.attributes).items()}
    return {(f"exported_{key}" if key in own else key): value for key, value in given.items()} | own


def _number(point: Any) -> float:
    return point.as_int if point.WhichOneof("value") == "as_int" else point.as_double


def _exemplars(point: NumberDataPoint | HistogramDataPoint) -> Iterator[Exemplar]:
    """Those with a trace id, the newest last."""
    for each in sorted(point.exemplars, key=lambda exemplar: exemplar.time_unix_nano):
        if each.trace_id:
            ids = {"trace_id": each.trace_id.hex(), "span_id": each.span_id.hex()}
            yield Exemplar(ids, _number(each), each.time_unix_nano / 1e9)


def _bound(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(bound)
