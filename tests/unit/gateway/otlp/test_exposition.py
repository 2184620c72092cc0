"""Metrics as Prometheus reads them, read back by its own parser."""

from __future__ import annotations

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as classic_families

from mlxmesh_gateway.otlp.exposition import expose, prometheus_name
from mlxmesh_gateway.otlp.sinks.prometheus import (
    MAX_PROCESS_BYTES,
    MAX_PROCESSES,
    STALE_S,
    PrometheusSink,
)
from tests.fakes.telemetry import CUMULATIVE, attributes, counter, gauge, metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def histogram(*counts: int, bounds: tuple[float, ...] = (0.1, 1.0)) -> Metric:
    metric = Metric(name="gen_ai.server.request.duration", unit="s", description="It took.")
    metric.histogram.aggregation_temporality = CUMULATIVE
    metric.histogram.data_points.add(
        count=sum(counts), sum=2.5, bucket_counts=counts, explicit_bounds=bounds
    )
    return metric


async def page(*given: Metric, service: str = "engine", accept: str = OPENMETRICS) -> str:
    sink = PrometheusSink()
    await sink.metrics(metrics(*given, service=service))
    return expose(sink.processes(), accept)[0].decode()


def value_of(text: str, name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


@pytest.mark.parametrize(
    ("name", "unit", "expected"),
    [
        ("mlxmesh.engine.queue.depth", "{sequence}", "mlxmesh_engine_queue_depth"),
        ("mlxmesh.engine.kv.bytes", "By", "mlxmesh_engine_kv_bytes"),
        ("mlxmesh.engine.kv.capacity", "By", "mlxmesh_engine_kv_capacity_bytes"),
        ("rpc.server.call.duration", "s", "rpc_server_call_duration_seconds"),
        ("a-b c", "1", "a_b_c"),
    ],
)
def test_names_end_with_their_unit(name: str, unit: str, expected: str) -> None:
    assert prometheus_name(name, unit) == expected


async def test_gauges_and_counters_carry_service_and_instance() -> None:
    text = await page(gauge("mlxmesh.kv", 1.5, "By"), counter("mlxmesh.tokens", 7, model="pocket"))
    whose = {"service": "engine", "instance": "engine-1"}
    assert value_of(text, "mlxmesh_kv_bytes", **whose) == 1.5
    assert value_of(text, "mlxmesh_tokens_total", model="pocket", **whose) == 7


async def test_histograms_have_cumulative_buckets() -> None:
    text = await page(histogram(3, 2, 1))
    name = "gen_ai_server_request_duration_seconds"
    assert value_of(text, f"{name}_bucket", le="0.1") == 3
    assert value_of(text, f"{name}_bucket", le="1.0") == 5
    assert value_of(text, f"{name}_bucket", le="+Inf") == 6
    assert value_of(text, f"{name}_count") == 6
    assert value_of(text, f"{name}_sum") == 2.5


async def test_an_exemplar_stands_at_its_bucket() -> None:
    metric = histogram(3, 2, 1)
    point = metric.histogram.data_points[0]
    ids = {"trace_id": bytes(15) + b"\x01", "span_id": bytes(7) + b"\x02"}
    point.exemplars.add(as_double=0.5, time_unix_nano=10**9, **ids)
    point.exemplars.add(as_double=7.0, time_unix_nano=10**9)  # of no trace
    samples = [
        sample
        for family in text_string_to_metric_families(await page(metric))
        for sample in family.samples
        if sample.exemplar
    ]
    assert [sample.labels["le"] for sample in samples] == ["1.0"]
    exemplar = samples[0].exemplar
    assert exemplar is not None
    assert (exemplar.labels["trace_id"], exemplar.value) == (f"{1:032x}", 0.5)


async def test_the_older_format_is_there_for_who_wants_it() -> None:
    sink = PrometheusSink()
    await sink.metrics(metrics(counter("mlxmesh.tokens", 7), histogram(1, 1, 1)))
    encoded, content_type = expose(sink.processes(), "text/plain")
    assert content_type.startswith("text/plain")
    names = {family.name for family in classic_families(encoded.decode())}
    assert names == {"mlxmesh_tokens", "gen_ai_server_request_duration_seconds"}


async def test_an_attribute_never_hides_whose_a_metric_is() -> None:
    text = await page(counter("c", 1, service="other", **{"rpc.method": "Get"}))
    labels = {"service": "engine", "exported_service": "other", "rpc_method": "Get"}
    assert value_of(text, "c_total", **labels) == 1


async def test_processes_share_a_family() -> None:
    sink = PrometheusSink()
    for service in ("engine", "gateway"):
        await sink.metrics(metrics(counter("c", 1), service=service))
    text = expose(sink.processes(), OPENMETRICS)[0].decode()
    assert text.count("# TYPE c counter") == 1
    assert value_of(text, "c_total", service="gateway") == 1


async def test_what_prometheus_would_misread_is_left_out() -> None:
    delta = counter("delta", 1)
    delta.sum.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    summary = Metric(name="summary")
    summary.summary.data_points.add(count=1)
    clash = gauge("c", 1)
    text = await page(delta, summary, Metric(name="empty"), counter("c", 1, other="x"))
    assert "delta" not in text
    assert "summary" not in text
    sink = PrometheusSink()
    await sink.metrics(metrics(counter("c", 1)))
    await sink.metrics(metrics(clash, service="model"))
    list(text_string_to_metric_families(expose(sink.processes(), OPENMETRICS)[0].decode()))


async def test_a_label_may_hold_any_text() -> None:
    odd = 'a"b\\c\nd'
    metric = counter("c", 1)
    metric.sum.data_points[0].attributes.extend(attributes({"x": odd}))
    assert value_of(await page(metric), "c_total", x=odd) == 1


async def test_a_process_that_is_silent_is_forgotten() -> None:
    now_s = 0.0
    sink = PrometheusSink(clock=lambda: now_s)
    await sink.metrics(metrics(counter("c", 1)))
    now_s = 59
    assert len(list(sink.processes())) == 1
    now_s = 61
    assert list(sink.processes()) == []


async def test_a_process_that_is_silent_is_forgotten_though_nobody_scrapes() -> None:
    now_s = [0.0]
    sink = PrometheusSink(clock=lambda: now_s[0])
    for number in range(5):
        await sink.metrics(metrics(gauge("mlxmesh.kv", 1.5), service=f"engine-{number}"))
        now_s[0] += STALE_S + 1
    assert len(sink._processes) == 1


async def test_an_exemplar_stays_until_its_bucket_has_a_newer_one() -> None:
    sink = PrometheusSink()
    told = {1: (0.5, 0.05), 2: (0.6,), 3: ()}
    for trace, values in told.items():
        metric = histogram(3, 2, 1)
        for value in values:
            metric.histogram.data_points[0].exemplars.add(
                as_double=value, trace_id=trace.to_bytes(16), span_id=bytes(7) + b"\x02"
            )
        await sink.metrics(metrics(metric))
    text = expose(sink.processes(), OPENMETRICS)[0].decode()
    found = {
        sample.labels["le"]: sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar
    }
    assert found == {"0.1": f"{1:032x}", "1.0": f"{2:032x}"}


async def test_what_one_process_has_wrong_takes_the_page_from_nobody() -> None:
    ids = counter("long.ids", 1)
    ids.sum.data_points[0].exemplars.add(trace_id=bytes(200), span_id=bytes(200))
    wrong = (histogram(1, 2), gauge("", 1), ids, gauge("1st", 1))
    text = await page(*wrong, gauge("mlxmesh.kv", 1.5))
    assert value_of(text, "mlxmesh_kv") == 1.5
    assert "request_duration" not in text


async def test_attributes_get_legal_label_names() -> None:
    point = gauge("a", 1)
    for key, value in {"1st": "x", "": "y", "a b": "z"}.items():
        point.gauge.data_points[0].attributes.add(key=key).value.string_value = value
    assert value_of(await page(point), "a", _1st="x", _="y", a_b="z") == 1


async def test_processes_and_their_metrics_are_bounded() -> None:
    sink = PrometheusSink()
    for number in range(MAX_PROCESSES + 5):
        await sink.metrics(metrics(gauge("a", 1), service=f"s-{number}"))
    assert len(list(sink.processes())) == MAX_PROCESSES
    assert sink.left_out == 5

    one = PrometheusSink()
    large = [gauge(f"a.{number}", 1) for number in range(200)]
    for each in large:
        each.description = "x" * 100_000
    await one.metrics(metrics(*large))
    (process,) = one.processes()
    assert 0 < process.size_bytes <= MAX_PROCESS_BYTES
    assert one.left_out == 200 - len(process.by_name)
    # What is there may change, and be told again and again.
    for _ in range(3):
        await one.metrics(metrics(gauge("a.0", 2)))
    assert process.by_name["a.0"].gauge.data_points[0].as_double == 2
    assert process.size_bytes < MAX_PROCESS_BYTES - 90_000
