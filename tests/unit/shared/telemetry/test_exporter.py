"""What becomes of what was recorded, whatever the sink does."""

import asyncio
import logging
from dataclasses import replace

import pytest

from mlxmesh_shared.errors import PermissionDenied, ServiceUnavailable
from mlxmesh_shared.telemetry.exporter import MAX_BATCH_ITEMS, Exporter, Pace
from mlxmesh_shared.telemetry.log_records import QueueingHandler
from mlxmesh_shared.telemetry.sdk import Recorder
from tests.fakes.otlp_collector import Received
from tests.fakes.waiting import until

FAST = Pace(
    tick_s=0.001,
    export_every_s=0.002,
    metrics_every_s=0.005,
    send_timeout_s=10.0,
    last_timeout_s=0.05,
    warn_every_s=0.0,
)


class Troubled(Received):
    """A sink that first does something else."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble: Exception | None = None
        self.hangs = False
        self.asked = 0

    async def traces(self, request) -> None:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.trouble is not None:
            raise self.trouble
        await super().traces(request)


class Counting(Received):
    """Counts the metrics messages that it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics_sent = 0

    async def metrics(self, request) -> None:
        self.metrics_sent += 1
        await super().metrics(request)


def record_spans(recorder: Recorder, count: int) -> None:
    for number in range(count):
        recorder.telemetry.tracer.start_span(f"span {number}").end()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder({"service.name": "x"})


async def test_everything_goes_out_in_order_beside_the_body(recorder: Recorder) -> None:
    sink = Received()
    QueueingHandler(recorder.log_records).emit(
        logging.LogRecord("a", logging.INFO, "a.py", 1, "hello", (), None)
    )
    record_spans(recorder, MAX_BATCH_ITEMS + 40)
    async with Exporter(recorder, sink, FAST).running():
        await until(lambda: len(sink.spans) == MAX_BATCH_ITEMS + 40 and bool(sink.log_records))
        await until(lambda: "mlxmesh.telemetry.dropped" in sink.metrics_by_service.get("x", {}))
    assert [span.name for span in sink.spans] == [f"span {n}" for n in range(MAX_BATCH_ITEMS + 40)]


async def test_what_is_left_at_the_end_goes_out(recorder: Recorder) -> None:
    sink = Received()
    async with Exporter(recorder, sink, replace(Pace(), last_timeout_s=30)).running():
        record_spans(recorder, 3)
    assert len(sink.spans) == 3
    assert sink.metrics_by_service


async def test_what_cannot_be_taken_now_is_held(recorder: Recorder) -> None:
    sink = Troubled()
    sink.trouble = ServiceUnavailable("no gateway yet")
    record_spans(recorder, 3)
    async with Exporter(recorder, sink, FAST).running():
        await until(lambda: sink.asked > 3)
        record_spans(recorder, 2)
        sink.trouble = None
        await until(lambda: len(sink.spans) == 5)
    assert [span.name for span in sink.spans][:3] == ["span 0", "span 1", "span 2"]
    assert recorder.lost_spans == 0


@pytest.mark.parametrize("trouble", [PermissionDenied("not you"), ValueError("a bug")])
async def test_what_is_refused_is_lost_and_counted(
    recorder: Recorder, trouble: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    sink = Troubled()
    sink.trouble = trouble
    record_spans(recorder, 3)
    async with Exporter(recorder, sink, FAST).running():
        await until(lambda: recorder.lost_spans == 3)
        # The other signals go their own way.
        await until(lambda: bool(sink.metrics_by_service))
        sink.trouble = None
        record_spans(recorder, 1)
        await until(lambda: len(sink.spans) == 1)
    assert "telemetry export failed" in caplog.text


async def test_a_sink_that_hangs_holds_up_nobody_and_nothing_grows() -> None:
    recorder, sink = Recorder({"service.name": "x"}, max_spans=10), Troubled()
    sink.hangs = True
    impatient = replace(FAST, send_timeout_s=0.05)
    async with Exporter(recorder, sink, impatient).running():
        record_spans(recorder, 100)
        await until(lambda: bool(sink.metrics_by_service))
    assert recorder.spans.dropped == 90
    assert recorder.lost_spans == 10
    assert sink.spans == []


async def test_without_anything_recorded_nothing_is_sent_until_metrics_are_due() -> None:
    recorder, sink = Recorder({"service.name": "x"}), Counting()
    pace = replace(FAST, metrics_every_s=0.01, idle_metrics_every_s=0.01, send_timeout_s=5)
    async with Exporter(recorder, sink, pace).running():
        await until(lambda: sink.metrics_sent == 1)
        await asyncio.sleep(0.2)
        # They are read again and again, and have not changed.
        assert sink.metrics_sent == 1
        assert sink.spans == []
        record_spans(recorder, 1)
        await until(lambda: len(sink.spans) == 1)


async def test_unchanged_metrics_are_sent_again_in_time() -> None:
    recorder, sink = Recorder({"service.name": "x"}), Counting()
    pace = replace(
        FAST, metrics_every_s=0.01, idle_metrics_every_s=0.01, unchanged_metrics_every_s=0.05
    )
    async with Exporter(recorder, sink, pace).running():
        await until(lambda: sink.metrics_sent >= 3)


async def test_a_record_of_another_thread_wakes_the_exporter() -> None:
    recorder, sink = Recorder({"service.name": "x"}), Received()
    pace = replace(FAST, metrics_every_s=3600)
    async with Exporter(recorder, sink, pace).running():
        await asyncio.sleep(0.05)
        await asyncio.to_thread(record_spans, recorder, 2)
        await until(lambda: len(sink.spans) == 2)
