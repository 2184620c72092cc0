"""Which traces go to sinks."""

from __future__ import annotations

import math

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from mlxmesh_gateway.otlp.tail_rules import SETTLE_S, TailOptions, TailRules
from tests.fakes.telemetry import span, span_names, traces

NONE = TailOptions(export_ratio=0, slow_ms=1000)
SERVER = Span.SpanKind.SPAN_KIND_SERVER
AFTER_S = 10 + SETTLE_S


def passed(
    rules: TailRules, *spans: Span, service: str = "gateway", now_s: float = 10
) -> list[str]:
    return span_names(rules.add(traces(*spans, service=service), now_s))


def test_with_all_wanted_nothing_is_held() -> None:
    rules = TailRules(TailOptions(export_ratio=1))
    assert passed(rules, span(1, "only a part", parent=5)) == ["only a part"]


@pytest.mark.parametrize(
    ("spans", "kept"),
    [
        ([span(1, "root")], False),
        ([span(1, "root", failed=True)], True),
        ([span(1, "child", number=2, parent=1, failed=True), span(1, "root")], True),
        ([span(1, "root", took_s=0.999)], False),
        ([span(1, "root", took_s=1.0)], True),
    ],
)
def test_errors_and_slow_requests_are_kept(spans: list[Span], kept: bool) -> None:
    rules = TailRules(NONE)
    assert passed(rules, *spans) == []
    assert span_names(rules.decided(AFTER_S - 0.1)) == []
    names = [each.name for each in spans]
    assert span_names(rules.decided(AFTER_S)) == (names if kept else [])
    assert span_names(rules.decided(math.inf)) == []


def test_all_spans_of_a_kept_trace_come_with_whose_they_are() -> None:
    rules = TailRules(NONE)
    passed(rules, span(1, "decode", number=3, parent=2), service="engine")
    passed(rules, span(1, "root", failed=True))
    passed(rules, span(1, "late", number=4, parent=2), service="generation", now_s=11)
    (request,) = rules.decided(AFTER_S)
    whose = [one.resource.attributes[0].value.string_value for one in request.resource_spans]
    assert whose == ["engine", "gateway", "generation"]
    assert span_names([request]) == ["decode", "root", "late"]


def test_a_part_of_the_others_is_kept_by_trace_id() -> None:
    rules = TailRules(TailOptions(export_ratio=0.25))
    quarters = [0, 2**62 - 1, 2**62, 2**63, 2**64 - 1]
    passed(rules, *(span(number or 2**64, str(number)) for number in quarters))
    kept = span_names(rules.decided(AFTER_S))
    assert kept == ["0", str(2**62 - 1)]


def test_a_request_that_its_client_traces_is_decided_too() -> None:
    rules = TailRules(NONE)
    passed(rules, span(1, "root", parent=99, kind=SERVER, failed=True))
    assert span_names(rules.decided(AFTER_S)) == ["root"]


def test_without_a_root_the_hold_time_decides() -> None:
    rules = TailRules(TailOptions(export_ratio=0, hold_s=60))
    passed(rules, span(1, "child", parent=2, failed=True), service="engine")
    assert span_names(rules.decided(69.9)) == []
    assert span_names(rules.decided(70)) == ["child"]


def test_what_comes_late_follows_the_decision_and_an_error_turns_it() -> None:
    rules = TailRules(NONE)
    passed(rules, span(1, "kept", failed=True), span(2, "dropped"))
    list(rules.decided(AFTER_S))
    assert passed(rules, span(1, "late", parent=1)) == ["late"]
    assert passed(rules, span(2, "late", parent=1)) == []
    assert passed(rules, span(2, "late error", parent=1, failed=True)) == ["late error"]
    assert passed(rules, span(2, "later still", parent=1)) == ["later still"]


def test_a_slow_request_turns_the_decision_on_its_clients_trace() -> None:
    rules = TailRules(NONE)
    passed(rules, span(1, "quick"))
    list(rules.decided(AFTER_S))
    assert passed(rules, span(1, "slow", took_s=1.0)) == ["slow"]


def test_memory_is_bounded_the_oldest_is_decided_early() -> None:
    rules = TailRules(TailOptions(export_ratio=0, max_held_bytes=2000))
    early = [
        name
        for number in range(1, 101)
        for name in passed(rules, span(number, f"t{number}", parent=9, failed=True))
    ]
    assert early[:3] == ["t1", "t2", "t3"]
    left = span_names(rules.decided(math.inf))
    assert early + left == [f"t{number}" for number in range(1, 101)]
    assert len(left) < 40


def test_decisions_are_bounded() -> None:
    rules = TailRules(TailOptions(export_ratio=0, max_decisions=2))
    for number in (1, 2, 3):
        passed(rules, span(number, failed=True))
    list(rules.decided(AFTER_S))
    assert passed(rules, span(3, "late", parent=1)) == ["late"]
    # Forgotten, so that it is a new trace.
    assert passed(rules, span(1, "late", parent=1)) == []
