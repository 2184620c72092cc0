"""Log records as OTLP messages, with the trace that each belongs to."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from mlxmesh_shared.telemetry.attributes import REQUEST_MODEL
from mlxmesh_shared.telemetry.sink import BoundedQueue

_NS = 10**9
_SEVERITIES = {
    logging.DEBUG: SeverityNumber.SEVERITY_NUMBER_DEBUG,
    logging.INFO: SeverityNumber.SEVERITY_NUMBER_INFO,
    logging.WARNING: SeverityNumber.SEVERITY_NUMBER_WARN,
    logging.ERROR: SeverityNumber.SEVERITY_NUMBER_ERROR,
    logging.CRITICAL: SeverityNumber.SEVERITY_NUMBER_FATAL,
}


class TraceFilter(logging.Filter):
    """Adds the trace and the model to every record; drops none."""

    def __init__(self, model: str = "") -> None:
        """`model`: the model that the process serves, if it serves one."""
        super().__init__()
        self._model = model

    def filter(self, record: logging.LogRecord) -> bool:
        span = trace.get_current_span()
        context = span.get_span_context()
        if context.is_valid:
            record.trace_id = trace.format_trace_id(context.trace_id)
            record.span_id = trace.format_span_id(context.span_id)
        attributes: Mapping[str, Any] = getattr(span, "attributes", None) or {}
        model = self._model or attributes.get(REQUEST_MODEL)
        if model and not hasattr(record, "model"):
            record.model = model
        return True


class QueueingHandler(logging.Handler):
    """Encodes every record for OTLP and queues it."""

    def __init__(self, queue: BoundedQueue[LogRecord]) -> None:
        super().__init__()
        self._queue = queue
        self._traces = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._queue.put(self._encoded(record))
        except Exception:  # noqa: BLE001 - logging must not fail its caller
            self.handleError(record)

    def _encoded(self, record: logging.LogRecord) -> LogRecord:
        time_ns = int(record.created * _NS)
        encoded = LogRecord(
            time_unix_nano=time_ns,
            observed_time_unix_nano=time_ns,
            severity_number=_SEVERITIES.get(
                record.levelno, SeverityNumber.SEVERITY_NUMBER_UNSPECIFIED
            ),
            severity_text=record.levelname,
            body=AnyValue(string_value=record.getMessage()),
            attributes=[attribute(name, value) for name, value in self._attributes(record)],
        )
        if trace_id := getattr(record, "trace_id", ""):
            encoded.trace_id = bytes.fromhex(trace_id)
            encoded.span_id = bytes.fromhex(getattr(record, "span_id", ""))
        return encoded

    def _attributes(self, record: logging.LogRecord) -> Iterator[tuple[str, object]]:
        yield "component", record.name
        yield "operation", getattr(record, "operation", record.funcName)
        if model := getattr(record, "model", ""):
            yield "model", model
        fields: Mapping[str, object] = getattr(record, "fields", None) or {}
        yield from fields.items()
        if record.exc_info:
            yield "exception.stacktrace", self._traces.formatException(record.exc_info)


def attribute(name: str, value: object) -> KeyValue:
    """A name and a value as an OTLP attribute; values that are not numbers become text."""
    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=value))
    if isinstance(value, float):
        return KeyValue(key=name, value=AnyValue(double_value=value))
    return KeyValue(key=name, value=AnyValue(string_value=str(value)))
