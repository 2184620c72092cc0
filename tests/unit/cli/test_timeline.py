"""A trace as people read it."""

from __future__ import annotations

from rich.console import Console

from mlxmesh.telemetry.v1.telemetry_pb2 import Span, SpanEvent
from mlxmesh_cli.screen.timeline import BAR_CHARACTERS, bar, details, rows, timeline

MS = 1_000_000


def span(
    name: str,
    span_id: str,
    parent: str = "",
    *,
    at_ms: int = 0,
    took_ms: int = 100,
    **fields: object,
) -> Span:
    return Span(
        trace_id="0" * 31 + "1",
        name=name,
        span_id=span_id,
        parent_span_id=parent,
        service="gateway",
        instance_id="gateway-1",
        start_unix_nano=10**18 + at_ms * MS,
        duration_nano=took_ms * MS,
        **fields,  # pyright: ignore[reportArgumentType]
    )


ROOT = span(
    "pkg.v1.Service/Generate", "a", "client", took_ms=200, attributes={"mlxmesh.request_id": "r"}
)
QUEUE = span("queue", "c", "b", at_ms=10, took_ms=10)
DECODE = span("decode", "d", "b", at_ms=20, took_ms=180)
EXECUTE = span("execute", "b", "a", at_ms=10, took_ms=190)
TRACE = [DECODE, ROOT, EXECUTE, QUEUE]


def shown(*spans: Span, width: int = 200) -> list[str]:
    console = Console(width=width)
    with console.capture() as capture:
        console.print(timeline(spans))
    return capture.get().splitlines()


def test_each_span_stands_below_its_parent_by_start() -> None:
    assert [(row.guide, row.span.name) for row in rows(TRACE)] == [
        ("", "pkg.v1.Service/Generate"),
        ("└─ ", "execute"),
        ("   ├─ ", "queue"),
        ("   └─ ", "decode"),
    ]


def test_spans_without_a_known_parent_are_roots() -> None:
    assert [row.guide for row in rows([QUEUE, DECODE])] == ["", ""]


def test_the_table_tells_offsets_durations_and_the_whole() -> None:
    lines = shown(*TRACE)
    assert lines[0] == f"request r · 200.0 ms · 4 spans · trace {'0' * 31}1"
    assert lines[3].split()[:4] == ["Service/Generate", "gateway-1", "0.0", "200.0"]
    assert lines[6].split()[1:5] == ["decode", "gateway-1", "20.0", "180.0"]


def test_names_and_times_stay_on_a_narrow_terminal() -> None:
    lines = shown(*TRACE, width=80)
    assert all(len(line) <= 80 for line in lines)
    assert "180.0" in lines[6]


def test_a_bar_lies_where_the_span_does() -> None:
    whole_ns, begin_ns = 200 * MS, ROOT.start_unix_nano
    assert bar(ROOT, begin_ns, whole_ns) == "█" * BAR_CHARACTERS
    late = bar(span("x", "x", at_ms=199, took_ms=0), begin_ns, whole_ns)
    assert late == "·" * (BAR_CHARACTERS - 1) + "█"
    at_the_end = bar(span("x", "x", at_ms=200, took_ms=0), begin_ns, whole_ns)
    assert len(at_the_end) == BAR_CHARACTERS


def test_details_begin_with_the_error_and_leave_out_what_the_header_has() -> None:
    facts = {"gen_ai.request.model": "pocket", "mlxmesh.request_id": "r", "other": "x"}
    moment = SpanEvent(name="first", unix_nano=10**18 + 5 * MS)
    told = span("x", "x", attributes=facts, events=[moment], failed=True, failure="EngineLost")
    assert details(told) == "failed: EngineLost request.model=pocket other=x first@5.0ms"
    assert details(span("x", "x", failed=True)) == "failed"


def test_names_are_never_markup() -> None:
    assert any("[red]odd[/red]" in line for line in shown(span("[red]odd[/red]", "a")))
