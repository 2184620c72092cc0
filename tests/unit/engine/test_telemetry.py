"""A sequence's spans, recorded from its timings after its end."""

import time

import pytest

from mlxmesh_engine.scheduling.request import FinishReason, SequenceRequest, Timings, Update
from mlxmesh_engine.service.telemetry import SequenceSpans
from mlxmesh_shared.errors import DeadlineExceeded, MeshError
from mlxmesh_shared.telemetry.sdk import Recorder
from tests.fakes.otlp_collector import Received, ReceivedSpan

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WHOLE = Timings(10, 20, 30, cached_tokens=2, output_tokens=4)


async def spans_of(
    timings: Timings | None,
    flags: str = "01",
    finish_reason: FinishReason | None = None,
    error: MeshError | None = None,
) -> list[ReceivedSpan]:
    recorder, received = Recorder({"service.name": "engine"}), Received()
    request = SequenceRequest(
        key=(1, 1),
        prompt=(1, 2, 3),
        generated=(4,),
        max_tokens=9,
        submitted_s=time.monotonic() - 0.1,
        traceparent=f"00-{TRACE}-{SPAN}-{flags}" if flags else "",
    )
    last = Update(1, timings=timings, finish_reason=finish_reason, error=error)
    SequenceSpans(recorder.telemetry.tracer).on_end(request, last)
    await received.traces(recorder.drain_spans(10))
    return received.spans


async def test_the_phases_follow_each_other_below_the_callers_span() -> None:
    spans = await spans_of(WHOLE, finish_reason=FinishReason.LENGTH)
    assert [span.name for span in spans] == ["queue", "prefill", "decode"]
    assert {(span.trace_id, span.parent_id, span.failed) for span in spans} == {
        (TRACE, SPAN, False)
    }
    took_ms = [(span.end_ns - span.start_ns) / 1e6 for span in spans]
    assert took_ms == pytest.approx([10, 20, 30], abs=0.01)
    assert [span.start_ns for span in spans[1:]] == [span.end_ns for span in spans[:-1]]
    age_s = time.time() - spans[0].start_ns / 1e9
    assert 0.1 <= age_s < 60


async def test_each_phase_has_its_tokens() -> None:
    queue, prefill, decode = await spans_of(WHOLE, finish_reason=FinishReason.STOP)
    assert queue.attributes == {}
    assert prefill.attributes == {
        "gen_ai.usage.input_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 2,
    }
    assert decode.attributes == {"gen_ai.usage.output_tokens": 4}


async def test_a_phase_that_did_not_begin_has_no_span_and_a_failure_is_recorded() -> None:
    (queue,) = await spans_of(Timings(10, 0, 0), error=DeadlineExceeded("too late"))
    assert (queue.name, queue.failed) == ("queue", True)
    assert queue.attributes == {"error.type": "DEADLINE_EXCEEDED"}


@pytest.mark.parametrize("flags", ["", "00"])
async def test_without_a_recorded_parent_there_are_no_spans(flags: str) -> None:
    assert await spans_of(WHOLE, flags, finish_reason=FinishReason.STOP) == []


async def test_a_sequence_that_was_never_admitted_has_no_spans() -> None:
    assert await spans_of(None, finish_reason=FinishReason.STOP) == []
