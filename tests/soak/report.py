"""What a soak found: slopes of every process against the targets, calls, latencies, and curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from statistics import median
from typing import Any

from tests.bench.curves import Curve, Panel
from tests.bench.results import Findings, Result, Row
from tests.bench.samples import percentile
from tests.soak.samples import Life, ProcessSample, lives
from tests.soak.slopes import Slope, settled, slope, verdict

MAX_MB_PER_HOUR = 5.0
MAX_PER_HOUR = 10.0
"""Of descriptors, threads and tasks: what a leak per request would exceed many times."""
_MB, _HOUR_S = 1e6, 3600.0
LIMITS = {
    "memory_bytes": MAX_MB_PER_HOUR * _MB,
    "fds": MAX_PER_HOUR,
    "threads": MAX_PER_HOUR,
    "tasks": MAX_PER_HOUR,
}
Lines = Sequence[Mapping[str, Any]]
Samples = Sequence[tuple[float, ProcessSample]]


def judged(lines: Lines) -> Findings:
    """Slopes of each process life that was long enough, and the calls."""
    rows: list[Row] = []
    worst: dict[str, list[float]] = {figure: [] for figure in LIMITS}
    left_out = 0
    for life, samples in sorted(lives(lines).items()):
        first = settled([at_s for at_s, _ in samples])
        if first == len(samples):
            left_out += 1
            continue
        rows.append(_row(life, samples, samples[first:], worst))
    judged_lives = len(worst["memory_bytes"])
    results = [
        Result(
            f"slope of {figure.removesuffix('_bytes')}, worst process",
            max(found) / (_MB if "bytes" in figure else 1),
            LIMITS[figure] / (_MB if "bytes" in figure else 1),
            "MB/h" if "bytes" in figure else "/h",
            at_least=False,
        )
        for figure, found in worst.items()
        if found
    ]
    last = lines[-1]
    results.append(Result(f"calls failed, of {last['calls']:,}", last["failed"], 0, "", False))
    tables: dict[str, Sequence[Row]] = {"slopes after warm-up": rows} if rows else {}
    tables["first output, first and last quarter"] = list(_latencies(lines))
    tables["lives"] = [
        {"judged": judged_lives, "too short to judge": len(rows) + left_out - judged_lives}
    ]
    return Findings(results, {name: table for name, table in tables.items() if table})


def _row(life: Life, samples: Samples, warm: Samples, worst: dict[str, list[float]]) -> Row:
    times_s = [at_s for at_s, _ in warm]
    row: dict[str, int | float | str] = {
        "process": life.role,
        "pid": life.pid,
        "min": (samples[-1][0] - samples[0][0]) / 60,
        "first MB": samples[0][1].memory_bytes / _MB,
        "warm MB": warm[0][1].memory_bytes / _MB,
        "last MB": warm[-1][1].memory_bytes / _MB,
    }
    for figure, limit in LIMITS.items():
        found = _slope_of(warm, figure)
        said = verdict(found, limit / _HOUR_S, times_s[-1] - times_s[0])
        # Only what is above the limit at the low end of its interval counts: it is not noise.
        sure = found.low_per_s if said == "unclear" else found.per_s
        if said != "short":
            worst[figure].append(sure * _HOUR_S)
        if figure == "memory_bytes":
            late = warm[len(warm) // 2 :]
            row |= _memory(found, _slope_of(late, figure), said)
        else:
            row[f"{figure}/h"] = found.per_s * _HOUR_S
    return row


def _slope_of(samples: Samples, figure: str) -> Slope:
    return slope([at_s for at_s, _ in samples], [getattr(each, figure) for _, each in samples])


def _memory(found: Slope, late: Slope, said: str) -> dict[str, float | str]:
    unit = _HOUR_S / _MB
    return {
        "MB/h": found.per_s * unit,
        "of 95 %": f"{found.low_per_s * unit:.1f} to {found.high_per_s * unit:.1f}",
        "2nd half MB/h": late.per_s * unit,
        "verdict": said,
    }


def _latencies(lines: Lines) -> Iterator[Row]:
    quarter = max(1, len(lines) // 4)
    for kind in _kinds(lines):
        early = sorted(ms for _, ms in _first_ms(lines[:quarter], kind))
        late = sorted(ms for _, ms in _first_ms(lines[-quarter:], kind))
        if early and late:
            yield {
                "calls": kind,
                "first quarter, p50 ms": percentile(early, 0.5),
                "last quarter, p50 ms": percentile(late, 0.5),
            }


def _kinds(lines: Lines) -> list[str]:
    return sorted({kind for line in lines for kind in line["first_output"]})


def _first_ms(lines: Lines, kind: str) -> list[tuple[float, float]]:
    """The median times to the first output of one kind of call, with their minutes."""
    return [
        (float(line["at_s"]) / 60, float(line["first_output"][kind]["first_p50_ms"]))
        for line in lines
        if kind in line["first_output"]
    ]


def panels(lines: Lines) -> list[Panel]:
    """Each figure over time, by the median of each minute; the curves of processes that were
    restarted end and begin.
    """
    found = lives(lines)
    shown = {
        "memory, MB": ("memory_bytes", _MB),
        "descriptors": ("fds", 1),
        "threads": ("threads", 1),
        "asyncio tasks": ("tasks", 1),
    }
    drawn = [
        Panel(title, "minutes", list(_curves(found, figure, unit)), log_x=False)
        for title, (figure, unit) in shown.items()
    ]
    latencies = [Curve(kind, _by_minute(_first_ms(lines, kind))) for kind in _kinds(lines)]
    drawn.append(Panel("first output, p50 ms", "minutes", latencies, log_y=True, log_x=False))
    return drawn


def _curves(found: Mapping[Life, Samples], figure: str, unit: float) -> Iterator[Curve]:
    for life, samples in sorted(found.items()):
        points = [
            (at_s / 60, getattr(sample, figure) / unit)
            for at_s, sample in samples
            if figure != "tasks" or sample.tasks
        ]
        if len(points := _by_minute(points)) > 1:
            yield Curve(life.role, points)


def _by_minute(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [
        (minute, median(value for _, value in found))
        for minute, found in groupby(points, lambda point: point[0] // 1)
    ]
