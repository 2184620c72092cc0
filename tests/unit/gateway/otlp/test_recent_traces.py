"""The memory of recent traces."""

from __future__ import annotations

from mlxmesh_gateway.otlp.recent_traces import (
    MAX_REQUEST_TRACES,
    MAX_TRACE_SPANS,
    KeepOptions,
    RecentTraces,
)
from tests.fakes.telemetry import span, traces


def names(recent: RecentTraces, request_id: str) -> list[str]:
    return [kept.span().name for trace in recent.of_request(request_id) for kept in trace.spans]


def test_a_request_has_the_spans_of_every_process_and_of_each_of_its_traces() -> None:
    recent = RecentTraces(KeepOptions())
    recent.add(traces(span(1, "decode", number=2, parent=1), service="engine"), 0)
    recent.add(traces(span(1, "root", request_id="r"), span(2, "other", request_id="s")), 1)
    recent.add(traces(span(3, "read on", request_id="r")), 2)
    assert names(recent, "r") == ["decode", "root", "read on"]
    first, second = recent.of_request("r")
    assert [kept.service for kept in first.spans] == ["engine", "gateway"]
    assert (first.last_s, second.last_s) == (1, 2)
    assert recent.of_trace((2).to_bytes(16, "big"))[0].request_ids == {"s"}
    assert recent.of_request("t") == []
    assert recent.of_trace(bytes(16)) == []


def test_each_request_of_one_clients_trace_is_found() -> None:
    recent = RecentTraces(KeepOptions(max_traces=1))
    for request_id in ("r", "s"):
        recent.add(traces(span(1, request_id, request_id=request_id)), 0)
    assert names(recent, "r") == names(recent, "s") == ["r", "s"]
    recent.add(traces(span(2)), 1)
    assert recent.of_request("r") == recent.of_request("s") == []


def test_the_oldest_trace_goes_when_there_are_too_many() -> None:
    recent = RecentTraces(KeepOptions(max_traces=2))
    for number in (1, 2, 3):
        recent.add(traces(span(number, request_id=f"r{number}")), number)
    assert [bool(recent.of_request(f"r{number}")) for number in (1, 2, 3)] == [False, True, True]


def test_the_oldest_trace_goes_when_they_take_too_much() -> None:
    recent = RecentTraces(KeepOptions(max_bytes=1000))
    for number in range(1, 100):
        recent.add(traces(span(number, request_id=f"r{number}")), number)
    kept = [number for number in range(1, 100) if recent.of_request(f"r{number}")]
    assert kept
    assert kept == list(range(kept[0], 100))
    assert len(kept) < 5


def test_what_is_too_old_goes() -> None:
    recent = RecentTraces(KeepOptions(max_age_s=10))
    recent.add(traces(span(1, request_id="a")), 0)
    recent.add(traces(span(2, request_id="b")), 5)
    recent.expire(9.9)
    assert names(recent, "a") == ["work"]
    recent.expire(10)
    assert names(recent, "a") == []
    assert names(recent, "b") == ["work"]


def test_a_request_that_lost_one_of_its_traces_keeps_the_other() -> None:
    recent = RecentTraces(KeepOptions(max_traces=2))
    recent.add(traces(span(1, "first", request_id="r"), span(2, "second", request_id="r")), 0)
    recent.add(traces(span(3)), 1)
    assert names(recent, "r") == ["second"]


def test_one_trace_and_one_request_are_bounded() -> None:
    recent = RecentTraces(KeepOptions())
    recent.add(traces(*(span(1, number=each) for each in range(1, MAX_TRACE_SPANS + 9))), 0)
    (trace,) = recent.of_trace((1).to_bytes(16, "big"))
    assert len(trace.spans) == MAX_TRACE_SPANS

    for number in range(2, MAX_REQUEST_TRACES + 9):
        recent.add(traces(span(number, request_id="r")), number)
    assert len(recent.of_request("r")) == MAX_REQUEST_TRACES
