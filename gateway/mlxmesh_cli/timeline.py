"""The spans of a trace as a tree, each with its offset, its duration and a bar. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from mlxmesh.telemetry.v1.telemetry_pb2 import Span

BAR_CHARACTERS = 24
_NS_PER_MS = 1_000_000
# The header has them.
_LEFT_OUT = frozenset({"mlxmesh.request_id"})
_PREFIXES = ("mlxmesh.", "gen_ai.", "rpc.")


class Row(NamedTuple):
    """A span and where it stands in the tree."""

    span: Span
    guide: str
    """What is drawn before its name: lines that lead to its parent."""


def timeline(spans: Sequence[Span]) -> Group:
    """A line about the whole, then a row for each span."""
    begin_ns = min(span.start_unix_nano for span in spans)
    whole_ns = max(max(_end_ns(span) for span in spans) - begin_ns, 1)
    table = _table()
    for span, guide in rows(spans):
        colour = "red" if span.failed else "cyan"
        table.add_row(
            f"{guide}{escape(_short(span.name))}",
            escape(span.instance_id),
            f"{(span.start_unix_nano - begin_ns) / _NS_PER_MS:.1f}",
            f"{span.duration_nano / _NS_PER_MS:.1f}",
            f"[{colour}]{bar(span, begin_ns, whole_ns)}[/{colour}]",
            escape(details(span)),
        )
    return Group(_header(spans, whole_ns), "", table)


def _table() -> Table:
    """What there is no room for is left out of the details, and then of the names."""
    table = Table(box=None, pad_edge=False, expand=True)
    table.add_column("span", no_wrap=True, overflow="ellipsis", min_width=20)
    table.add_column("process", no_wrap=True, overflow="ellipsis", min_width=10)
    table.add_column("at ms", justify="right", no_wrap=True, width=8)
    table.add_column("took ms", justify="right", no_wrap=True, width=8)
    table.add_column("", no_wrap=True, width=BAR_CHARACTERS)
    table.add_column("details", no_wrap=True, overflow="ellipsis", ratio=1)
    return table


def _short(name: str) -> str:
    """A method without the package of its service."""
    service, slash, method = name.rpartition("/")
    return f"{service.rpartition('.')[2]}{slash}{method}"


def rows(spans: Sequence[Span]) -> Iterator[Row]:
    """Depth first: each span after its parent, siblings by start."""
    known = {span.span_id for span in spans}
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda each: each.start_unix_nano):
        # A client's own span is not here: what it caused is a root.
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
    """Where in the whole the span lies; at least one character."""
    start = (span.start_unix_nano - begin_ns) * BAR_CHARACTERS // whole_ns
    start = min(start, BAR_CHARACTERS - 1)
    end = (_end_ns(span) - begin_ns) * BAR_CHARACTERS // whole_ns
    return "·" * start + "█" * max(1, end - start) + "·" * (BAR_CHARACTERS - max(end, start + 1))


def details(span: Span) -> str:
    """Its error, its facts, and its moments."""
    failure = [f"failed: {span.failure}" if span.failure else "failed"] if span.failed else []
    moments = [f"{event.name}@{_since_ms(span, event.unix_nano):.1f}ms" for event in span.events]
    return " ".join([*failure, *_facts(span.attributes), *moments])


def _facts(attributes: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(attributes):
        if key not in _LEFT_OUT:
            prefix = next((each for each in _PREFIXES if key.startswith(each)), "")
            yield f"{key.removeprefix(prefix)}={attributes[key]}"


def _header(spans: Sequence[Span], whole_ns: int) -> str:
    ids = {span.attributes.get("mlxmesh.request_id", "") for span in spans} - {""}
    traces = sorted({span.trace_id for span in spans})
    request = f"request {', '.join(sorted(ids))} · " if ids else ""
    return escape(
        f"{request}{whole_ns / _NS_PER_MS:.1f} ms · {len(spans)} spans · trace {', '.join(traces)}"
    )


def _end_ns(span: Span) -> int:
    return span.start_unix_nano + span.duration_nano


def _since_ms(span: Span, unix_nano: int) -> float:
    return (unix_nano - span.start_unix_nano) / _NS_PER_MS
