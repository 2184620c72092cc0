"""The spans of a trace as a tree, each with its offset, its duration and a bar. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Group
from rich.text import Text

from mlxmesh.telemetry.v1.telemetry_pb2 import Span
from mlxmesh_cli.screen.grid import Column, Grid

BAR_CHARACTERS = 24
MIN_SPAN_CELLS, MIN_DETAILS_CELLS = 20, 10
_NS_PER_MS = 1_000_000
# Shown in the header.
_OMITTED = frozenset({"mlxmesh.request_id"})
_PREFIXES = ("mlxmesh.", "gen_ai.", "rpc.")


class Row(NamedTuple):
    """A span and its place in the tree."""

    span: Span
    guide: str
    """The lines before its name that lead to its parent."""


def timeline(spans: Sequence[Span]) -> Group:
    """A header line, then a row for each span."""
    begin_ns = min(span.start_unix_nano for span in spans)
    whole_ns = max(max(_end_ns(span) for span in spans) - begin_ns, 1)
    table = Grid(
        Column("span", min_cells=MIN_SPAN_CELLS, by_words=False),
        Column("process", drop=2),
        Column("at ms", right=True),
        Column("took ms", right=True),
        Column("", drop=1),
        Column("details", drop=3, min_cells=MIN_DETAILS_CELLS),
    )
    for span, guide in rows(spans):
        table.add(
            f"{guide}{_short(span.name)}",
            span.instance_id,
            f"{(span.start_unix_nano - begin_ns) / _NS_PER_MS:.1f}",
            f"{span.duration_nano / _NS_PER_MS:.1f}",
            Text(bar(span, begin_ns, whole_ns), style="red" if span.failed else "cyan"),
            details(span),
        )
    return Group(_header(spans, whole_ns), "", table)


def _short(name: str) -> str:
    """A method name without the package of its service."""
    service, slash, method = name.rpartition("/")
    return f"{service.rpartition('.')[2]}{slash}{method}"


def rows(spans: Sequence[Span]) -> Iterator[Row]:
    """Depth first: each span after its parent, siblings by start."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda each: each.start_unix_nano):
        # The client's own span is not in the trace, so its children are roots.
        parent = span.parent_span_id if span.parent_span_id in known else ""
        children.setdefault(parent, []).append(span)

    def below(parent: str, indent: str) -> Iterator[Row]:
        siblings = children.pop(parent, [])
        for span in siblings:
            last = span is siblings[-1]
            yield Row(span, f"{indent}{'└─ ' if last else '├─ '}")
            yield from below(span.span_id, f"{indent}{'   ' if last else '│  '}")

    for root in children.pop("", []):
        yield Row(root, "")
        yield from below(root.span_id, "")


def bar(span: Span, begin_ns: int, whole_ns: int) -> str:
    """The span's position in the trace as a bar of at least one character."""
    start = (span.start_unix_nano - begin_ns) * BAR_CHARACTERS // whole_ns
    start = min(start, BAR_CHARACTERS - 1)
    end = (_end_ns(span) - begin_ns) * BAR_CHARACTERS // whole_ns
    return "·" * start + "█" * max(1, end - start) + "·" * (BAR_CHARACTERS - max(end, start + 1))


def details(span: Span) -> str:
    """Error, attributes and events of a span."""
    failure = [f"failed: {span.failure}" if span.failure else "failed"] if span.failed else []
    moments = [f"{event.name}@{_since_ms(span, event.unix_nano):.1f}ms" for event in span.events]
    return " ".join([*failure, *_facts(span.attributes), *moments])


def _facts(attributes: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(attributes):
        if key not in _OMITTED:
            prefix = next((each for each in _PREFIXES if key.startswith(each)), "")
            yield f"{key.removeprefix(prefix)}={attributes[key]}"


def _header(spans: Sequence[Span], whole_ns: int) -> Text:
    ids = {span.attributes.get("mlxmesh.request_id", "") for span in spans} - {""}
    traces = sorted({span.trace_id for span in spans})
    request = f"request {', '.join(sorted(ids))} · " if ids else ""
    return Text(
        f"{request}{whole_ns / _NS_PER_MS:.1f} ms · {len(spans)} spans · trace {', '.join(traces)}"
    )


def _end_ns(span: Span) -> int:
    return span.start_unix_nano + span.duration_nano


def _since_ms(span: Span, unix_nano: int) -> float:
    return (unix_nano - span.start_unix_nano) / _NS_PER_MS
