"""Tables of shadows and of what they found; rows are JSON data of the contract's messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import Any

from rich.console import Group
from rich.text import Text

from mlxmesh_cli.screen.grid import Column, Grid

_UNITS: dict[str, str] = {
    "ttft_ms": "ms",
    "tokens_per_second": "tokens/s",
    "completion_tokens": "tokens",
}
_NAMES: dict[str, str] = {
    "ttft_ms": "time to first token",
    "tokens_per_second": "speed",
    "completion_tokens": "length",
}


def shadows_table(shadows: Sequence[dict[str, Any]]) -> Grid:
    """One row per shadow."""
    table = Grid(
        Column("shadow"),
        Column("model"),
        Column("from", right=True),
        Column("to", right=True),
        Column("percent", right=True),
        Column("started", drop=2),
        Column("ended", drop=1),
    )
    for each in shadows:
        table.add(
            each["shadow_id"],
            each["model"],
            str(each["from_version"] or "others"),
            str(each["to_version"]),
            f"{each['percent']:g}",
            _moment(each["create_time"]),
            _moment(each["end_time"]) if "end_time" in each else "runs",
        )
    return table


def report_view(report: dict[str, Any]) -> Group:
    """What a shadow found: counts, differences and the latest pairs."""
    parts: list[Any] = [*_summary(report)]
    if report["differences"]:
        parts += ["", _differences(report["differences"])]
    if report["pairs"]:
        parts += ["", _pairs(report["pairs"])]
    return Group(*parts)


def _summary(report: dict[str, Any]) -> Iterator[Text]:
    shadow, compared, equal = report["shadow"], int(report["compared"]), int(report["equal"])
    source = shadow["from_version"] or "others"
    state = "has ended" if "end_time" in shadow else "runs"
    yield Text(
        f"{shadow['shadow_id']} {state}: {shadow['percent']:g} % of {shadow['model']}@{source}"
        f" at {shadow['model']}@{shadow['to_version']}"
    )
    if compared:
        yield Text(f"{compared} compared, {equal} equal ({100 * equal / compared:.1f} %)")
        yield Text(
            f"mean edit distance {100 * report['mean_edit_distance']:.1f} %, first difference"
            f" after {report['median_first_difference']:g} tokens (median of those that differ)"
            if equal < compared
            else "no answer differs"
        )
    else:
        yield Text("nothing compared yet")
    drops = {reason: int(count) for reason, count in report["drops"].items()}
    if drops:
        words = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in drops.items())
        yield Text(f"{sum(drops.values())} dropped: {words}")


def _differences(differences: Sequence[dict[str, Any]]) -> Grid:
    table = Grid(
        Column("metric"),
        Column("primary", right=True),
        Column("shadow", right=True),
        Column("difference", right=True),
        Column("95 % interval"),
        Column("unit", drop=1),
    )
    for each in differences:
        metric = str(each["metric"])
        table.add(
            _NAMES.get(metric, metric),
            f"{each['primary_mean']:.1f}",
            f"{each['shadow_mean']:.1f}",
            f"{each['mean_difference']:+.1f}",
            _interval(float(each["lower"]), float(each["upper"])),
            _UNITS.get(metric, ""),
        )
    return table


def _interval(lower: float, upper: float) -> str:
    if not (isfinite(lower) and isfinite(upper)):
        return "needs 100 pairs"
    return f"{lower:+.1f} to {upper:+.1f}"


def _pairs(pairs: Sequence[dict[str, Any]]) -> Grid:
    table = Grid(
        Column("request"),
        Column("from", drop=4, right=True),
        Column("equal"),
        Column("first difference", drop=3, right=True),
        Column("edit distance", right=True),
        Column("tokens", drop=1, right=True),
        Column("ttft ms", drop=2, right=True),
    )
    for each in pairs:
        equal = each["equal"]
        table.add(
            each["request_id"],
            str(each["from_version"]),
            "yes" if equal else "no",
            "" if equal else str(each["first_difference"]),
            f"{100 * each['edit_distance']:.1f} %",
            f"{each['primary_tokens']} > {each['shadow_tokens']}",
            f"{each['primary_ttft_ms']:.0f} > {each['shadow_ttft_ms']:.0f}",
        )
    return table


def _moment(text: str) -> str:
    """A time as the contract's JSON has it, to the second."""
    return text[:19].replace("T", " ")
