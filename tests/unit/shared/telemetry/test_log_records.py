"""Log records as they go out, and what stands in a line of the log."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from mlxmesh_shared.telemetry import JsonFormatter
from mlxmesh_shared.telemetry.attributes import REQUEST_MODEL
from mlxmesh_shared.telemetry.log_records import QueueingHandler, TraceFilter
from mlxmesh_shared.telemetry.sdk import Recorder
from mlxmesh_shared.telemetry.sink import BoundedQueue
from tests.fakes.otlp_collector import values


class Log:
    """A logger of its own, to a queue and to lines."""

    def __init__(self, model: str = "") -> None:
        self.queue: BoundedQueue[LogRecord] = BoundedQueue(10)
        self._stream = io.StringIO()
        lines = logging.StreamHandler(self._stream)
        lines.setFormatter(JsonFormatter({"service": "x"}))
        self.logger = logging.Logger("mlxmesh_x.part")
        for handler in (lines, QueueingHandler(self.queue)):
            handler.addFilter(TraceFilter(model))
            self.logger.addHandler(handler)

    @property
    def record(self) -> LogRecord:
        (record,) = self.queue.pop(10)
        return record

    @property
    def line(self) -> dict[str, object]:
        return json.loads(self._stream.getvalue())


@pytest.fixture
def span() -> Iterator[trace.Span]:
    """A span that is the current one."""
    span = Recorder({}).telemetry.tracer.start_span("a", attributes={REQUEST_MODEL: "pocket"})
    token = attach(trace.set_span_in_context(span))
    yield span
    detach(token)


def test_a_record_goes_out_with_all_that_its_line_has() -> None:
    log = Log()
    fields = {"rows": 2, "share": 0.5, "ready": True, "where": ["a"]}
    log.logger.warning("placed %d", 2, extra={"operation": "place", "fields": fields})
    record = log.record
    assert (record.body.string_value, record.severity_text) == ("placed 2", "WARNING")
    assert record.severity_number == SeverityNumber.SEVERITY_NUMBER_WARN
    assert values(record.attributes) == {
        "component": "mlxmesh_x.part",
        "operation": "place",
        "rows": 2,
        "share": 0.5,
        "ready": True,
        "where": "['a']",
    }
    assert record.trace_id == b""
    assert {"trace_id", "span_id", "model"} & log.line.keys() == set()


def test_a_record_names_the_span_that_it_was_made_in_and_its_model(span: trace.Span) -> None:
    log = Log()
    log.logger.info("hello")
    context = span.get_span_context()
    ids = f"{context.trace_id:032x}", f"{context.span_id:016x}"
    record, line = log.record, log.line
    assert (record.trace_id.hex(), record.span_id.hex()) == ids
    assert (line["trace_id"], line["span_id"], line["model"]) == (*ids, "pocket")
    assert values(record.attributes)["model"] == "pocket"


def test_a_process_that_is_about_one_model_says_so() -> None:
    log = Log(model="pocket-mini")
    log.logger.info("hello")
    assert (log.line["model"], values(log.record.attributes)["model"]) == ("pocket-mini",) * 2


def test_an_exception_goes_along() -> None:
    log = Log()
    try:
        raise ValueError("broken")
    except ValueError:
        log.logger.exception("failed")
    assert "ValueError: broken" in values(log.record.attributes)["exception.stacktrace"]


def test_records_beyond_the_queue_are_dropped_and_counted() -> None:
    log = Log()
    for number in range(25):
        log.logger.info("%d", number)
    assert (len(log.queue), log.queue.dropped) == (10, 15)
