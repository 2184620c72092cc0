"""What is recorded, what is not, and the form in which it goes out."""

import pytest
from opentelemetry import trace
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.sdk.trace import ReadableSpan

from mlxmesh_engine.service.telemetry import OUTPUT_TOKENS, STEP_DURATION
from mlxmesh_shared.telemetry.instruments import BREAKERS, DROPPED, RPC_DURATION
from mlxmesh_shared.telemetry.metrics import BucketCounts
from mlxmesh_shared.telemetry.sdk import QueueingSpanProcessor, Recorder
from mlxmesh_shared.telemetry.tracing import context_from
from tests.fakes.otlp_collector import values

IDENTITY = {"service.name": "engine", "service.instance.id": "e-1"}
TRACE = "0af7651916cd43dd8448eb211c80319c"


def metrics_of(recorder: Recorder) -> dict[str, Metric]:
    (group,) = recorder.read_metrics().resource_metrics
    assert values(group.resource.attributes) == IDENTITY
    return {one.name: one for scope in group.scope_metrics for one in scope.metrics}


def spans_of(recorder: Recorder) -> list[str]:
    request = recorder.drain_spans(100)
    return [
        one.name for all_ in request.resource_spans for of in all_.scope_spans for one in of.spans
    ]


def test_spans_that_have_ended_go_out_once() -> None:
    recorder = Recorder(IDENTITY)
    tracer = recorder.telemetry.tracer
    running, ended = tracer.start_span("running"), tracer.start_span("ended")
    ended.end()
    assert spans_of(recorder) == ["ended"]
    assert spans_of(recorder) == []
    running.end()
    assert spans_of(recorder) == ["running"]


@pytest.mark.parametrize(
    ("ratio", "traceparent", "recorded"),
    [
        (1.0, "", True),
        (0.0, "", False),
        (0.0, f"00-{TRACE}-b7ad6b7169203331-01", True),
        (1.0, f"00-{TRACE}-b7ad6b7169203331-00", False),
    ],
)
def test_who_brings_a_trace_decides_whether_it_is_recorded(
    ratio: float, traceparent: str, recorded: bool
) -> None:
    recorder = Recorder(IDENTITY, sample_ratio=ratio)
    span = recorder.telemetry.tracer.start_span("a", context_from(traceparent))
    assert span.is_recording() is recorded
    span.end()
    assert spans_of(recorder) == ["a"] * recorded


def test_a_part_of_the_traces_is_recorded() -> None:
    recorder = Recorder(IDENTITY, sample_ratio=0.5, max_spans=1000)
    for _ in range(1000):
        recorder.telemetry.tracer.start_span("a").end()
    assert 400 < len(recorder.spans) < 600


def test_spans_beyond_the_queue_are_dropped_and_counted() -> None:
    recorder = Recorder(IDENTITY, max_spans=2)
    for _ in range(5):
        recorder.telemetry.tracer.start_span("a").end()
    recorder.lost_spans = 10
    points = metrics_of(recorder)[DROPPED.name].sum.data_points
    dropped = {values(each.attributes)["mlxmesh.signal"]: each.as_int for each in points}
    assert dropped == {"traces": 13, "logs": 0}


def test_histograms_recorded_and_counted_go_out_alike() -> None:
    recorder = Recorder(IDENTITY)
    metrics = recorder.telemetry.metrics
    recorded, counts = metrics.histogram(RPC_DURATION), BucketCounts(STEP_DURATION.bounds)
    metrics.count(STEP_DURATION, counts)
    assert STEP_DURATION.name not in metrics_of(recorder)
    for value in (0.002, 0.02, 0.2):
        recorded.record(value, {"rpc.method": "a"})
        counts.record(value)
    found = metrics_of(recorder)
    for instrument in (RPC_DURATION, STEP_DURATION):
        one = found[instrument.name]
        (point,) = one.histogram.data_points
        assert (one.unit, one.description) == (instrument.unit, instrument.description)
        assert tuple(point.explicit_bounds) == instrument.bounds
        assert sum(point.bucket_counts) == point.count == 3
        assert (point.sum, point.min, point.max) == pytest.approx((0.222, 0.002, 0.2))
        assert 0 < point.start_time_unix_nano < point.time_unix_nano


def test_an_exemplar_names_the_trace_of_a_value() -> None:
    recorder = Recorder(IDENTITY)
    span = recorder.telemetry.tracer.start_span("a")
    histogram = recorder.telemetry.metrics.histogram(RPC_DURATION)
    histogram.record(0.1, {}, trace.set_span_in_context(span))
    (point,) = metrics_of(recorder)[RPC_DURATION.name].histogram.data_points
    (exemplar,) = point.exemplars
    assert exemplar.trace_id.hex() == f"{span.get_span_context().trace_id:032x}"


def test_values_are_read_when_they_go_out() -> None:
    recorder, tokens = Recorder(IDENTITY), [0]
    recorder.telemetry.metrics.observe_value(OUTPUT_TOKENS, lambda: tokens[0])
    recorder.telemetry.metrics.observe(BREAKERS, lambda: [(1, {"s": "a"}), (2, {"s": "b"})])

    def read() -> int:
        return metrics_of(recorder)[OUTPUT_TOKENS.name].sum.data_points[0].as_int

    assert read() == 0
    tokens[0] = 7
    assert read() == 7
    gauges = metrics_of(recorder)[BREAKERS.name].gauge.data_points
    assert {values(each.attributes)["s"]: each.as_int for each in gauges} == {"a": 1, "b": 2}


def test_a_span_without_a_context_is_no_span() -> None:
    recorder = Recorder(IDENTITY)
    QueueingSpanProcessor(recorder.spans).on_end(ReadableSpan("a"))
    assert len(recorder.spans) == 0
