"""What of the telemetry a sink gets."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlxmesh_gateway.otlp.messages import item_count
from mlxmesh_gateway.otlp.selection import Selection
from tests.fakes.telemetry import counter, logs, metrics, span, span_names, traces

ALL = ("traces", "metrics", "logs")


def test_without_a_filter_the_request_itself_goes_on() -> None:
    request = traces(span(1))
    assert Selection(ALL).of("traces", request) is request
    records = logs("debug")
    assert Selection(ALL).of("logs", records) is records


def test_an_unwanted_signal_does_not() -> None:
    assert Selection(["metrics"]).of("traces", traces(span(1))) is None


def test_only_the_chosen_services_do() -> None:
    request = ExportTraceServiceRequest()
    request.MergeFrom(traces(span(1, "a"), service="gateway"))
    request.MergeFrom(traces(span(1, "b"), service="engine"))
    chosen = Selection(ALL, services=["engine"])
    kept = chosen.of("traces", request)
    assert isinstance(kept, ExportTraceServiceRequest)
    assert span_names([kept]) == ["b"]
    assert chosen.of("traces", traces(span(1))) is None
    assert chosen.of("metrics", metrics(counter("c", 1), service="model")) is None
    assert chosen.of("logs", logs("error", service="model")) is None


@pytest.mark.parametrize(
    ("least", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_less_important_records_do_not(least: str, count: int) -> None:
    kept = Selection(ALL, severity=least).of("logs", logs("debug", "info", "warn", "error"))
    assert kept is not None
    assert item_count(kept) == count


def test_nothing_is_sent_when_no_record_is_important_enough() -> None:
    assert Selection(ALL, severity="error").of("logs", logs("info")) is None
