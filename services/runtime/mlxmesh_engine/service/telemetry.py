"""Telemetry of an engine: a span for each phase of a sequence, and metrics of the load."""

import time
from collections.abc import Iterator, Mapping

from opentelemetry.trace import Span, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from mlxmesh_engine import instruments
from mlxmesh_engine.scheduling.request import SequenceRequest, Timings, Update
from mlxmesh_engine.service.backend import Backend
from mlxmesh_engine.service.step_metrics import StepMetrics
from mlxmesh_shared.telemetry import attributes
from mlxmesh_shared.telemetry.metrics import Metrics
from mlxmesh_shared.telemetry.tracing import context_from

_MS = 10**6
"""Nanoseconds per millisecond."""
Phase = tuple[str, float, Mapping[str, AttributeValue]]
"""Name, milliseconds, attributes."""


class SequenceSpans:
    """Records a sequence's spans once it has ended, from its timings: no work for each token."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def on_end(self, request: SequenceRequest, last: Update) -> None:
        """An `OnEnd` of the dispatcher."""
        if not request.traceparent or last.timings is None:
            return
        parent = context_from(request.traceparent)
        begin_ns = time.time_ns() - round((time.monotonic() - request.submitted_s) * 1e3 * _MS)
        for name, duration_ms, facts in _phases(request, last.timings):
            end_ns = begin_ns + round(duration_ms * _MS)
            span = self._tracer.start_span(name, parent, attributes=facts, start_time=begin_ns)
            if last.error is not None:
                _record_error(span, last.error.reason)
            span.end(end_ns)
            begin_ns = end_ns


def _phases(request: SequenceRequest, timings: Timings) -> Iterator[Phase]:
    """The phases that began."""
    yield "queue", timings.queue_ms, {}
    if timings.prefill_ms:
        tokens = {
            attributes.INPUT_TOKENS: len(request.prompt) + len(request.generated),
            attributes.CACHED_TOKENS: timings.cached_tokens,
        }
        yield "prefill", timings.prefill_ms, tokens
    if timings.output_tokens:
        yield "decode", timings.decode_ms, {attributes.OUTPUT_TOKENS: timings.output_tokens}


def _record_error(span: Span, reason: str) -> None:
    span.set_attribute(attributes.ERROR_TYPE, reason)
    span.set_status(Status(StatusCode.ERROR))


def observe_engine(metrics: Metrics, backend: Backend, steps: StepMetrics) -> None:
    """Registers the engine's metrics; each export reads the current load."""
    metrics.count(instruments.STEP_DURATION, steps.durations)
    metrics.count(instruments.BATCH_SIZE, steps.batch_sizes)
    metrics.observe_value(instruments.OUTPUT_TOKENS, lambda: steps.tokens)
    metrics.observe_value(instruments.RUNNING, lambda: backend.load.running)
    metrics.observe_value(instruments.MAX_RUNNING, lambda: backend.load.max_running)
    metrics.observe_value(instruments.QUEUE_DEPTH, lambda: backend.load.waiting)
    metrics.observe_value(instruments.KV_BYTES, lambda: backend.load.kv_bytes)
    metrics.observe_value(instruments.KV_RESERVED, lambda: backend.load.kv_reserved_bytes)
    metrics.observe_value(instruments.KV_CAPACITY, lambda: backend.load.kv_capacity_bytes)
    metrics.observe_value(instruments.PREFIX_BYTES, lambda: backend.load.prefix_bytes)
    metrics.observe_value(instruments.PROMPT_TOKENS, lambda: backend.load.prompt_tokens)
    metrics.observe_value(instruments.CACHED_TOKENS, lambda: backend.load.cached_prompt_tokens)
