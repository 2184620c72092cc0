"""From histories to figures beside their targets. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.results import Findings, Result, Row
from tests.bench.samples import percentile
from tests.chaos.checker import Kind, Violation, check
from tests.chaos.history import OK, Call

OUT_OF_PLACE = (Kind.REPEATED, Kind.REORDERED, Kind.WRONG_TOKENS)


@dataclass(frozen=True)
class Disturbance:
    """When something broke in one round, and when the mesh noticed where that is known."""

    label: str
    """What broke: rounds with one label are told together."""
    prefix: str
    """What the ids of the round's calls begin with."""
    fault_s: float
    detected_s: float | None = None


@dataclass(frozen=True)
class Targets:
    """The most that is allowed; None where nothing is asked."""

    gap_ms: float | None = None
    detection_ms: float | None = None
    failed: int = 0


def findings(
    history: Sequence[Call],
    reference: Mapping[str, Call],
    disturbances: Sequence[Disturbance],
    targets: Targets,
) -> Findings:
    """What all rounds of a scenario come to."""
    violations = check(history, reference)
    gaps = sorted(1e3 * gap_s for gap_s in gaps_s(history, disturbances))
    delays = sorted(1e3 * (d.detected_s - d.fault_s) for d in disturbances if d.detected_s)
    results = [
        at_most("calls failed", sum(call.status != OK for call in history), targets.failed),
        *promises(violations),
    ]
    if targets.gap_ms is not None and gaps:
        results.append(at_most("gap p99", percentile(gaps, 0.99), targets.gap_ms, "ms"))
    if targets.detection_ms is not None and delays:
        worst = percentile(delays, 0.99)
        results.append(at_most("detection p99", worst, targets.detection_ms, "ms"))
    tables = {"by fault": _by_label(history, disturbances), "ends": ends(history)}
    if violations:
        tables["violations"] = [_row(violation) for violation in violations[:20]]
    return Findings(results, tables)


def promises(violations: Iterable[Violation]) -> list[Result]:
    """The promises about tokens, each beside how often it was broken."""
    tokens: Counter[Kind] = Counter()
    calls: Counter[Kind] = Counter()
    for violation in violations:
        tokens[violation.kind] += violation.tokens
        calls[violation.kind] += 1
    known = {Kind.LOST, Kind.TRUNCATED, *OUT_OF_PLACE}
    return [
        at_most("tokens missing", tokens[Kind.LOST], 0),
        at_most("tokens repeated or wrong", sum(tokens[kind] for kind in OUT_OF_PLACE), 0),
        at_most("silent truncations", calls[Kind.TRUNCATED], 0),
        at_most("other faults", sum(n for kind, n in calls.items() if kind not in known), 0),
    ]


def at_most(name: str, measured: float, wanted: float, unit: str = "") -> Result:
    """A figure of which less is better."""
    return Result(name, measured, wanted, unit, at_least=False)


def gaps_s(history: Sequence[Call], disturbances: Sequence[Disturbance]) -> list[float]:
    """The pause that each call saw which went on elsewhere after its round's fault."""
    return [
        call.longest_gap_s(after_s=disturbance.fault_s)
        for disturbance in disturbances
        for call in _of(disturbance, history)
        if call.status == OK and moved(call)
    ]


def moved(call: Call) -> bool:
    """Whether it went on elsewhere."""
    return bool(call.attached or (call.ending and call.ending.resumptions))


def ends(history: Sequence[Call]) -> list[Row]:
    """How many calls ended how."""
    count = Counter(call.status or "never" for call in history)
    return [{"end": status, "calls": calls} for status, calls in count.most_common()]


def _of(disturbance: Disturbance, history: Sequence[Call]) -> list[Call]:
    return [call for call in history if call.call_id.startswith(f"{disturbance.prefix}-")]


def _by_label(history: Sequence[Call], disturbances: Sequence[Disturbance]) -> list[Row]:
    labels = dict.fromkeys(each.label for each in disturbances)
    return [_label_row(label, history, disturbances) for label in labels]


def _label_row(label: str, history: Sequence[Call], disturbances: Sequence[Disturbance]) -> Row:
    rounds = [each for each in disturbances if each.label == label]
    calls = [call for each in rounds for call in _of(each, history)]
    gaps = sorted(1e3 * gap_s for gap_s in gaps_s(history, rounds))
    delays = sorted(1e3 * (each.detected_s - each.fault_s) for each in rounds if each.detected_s)
    return {
        "fault": label,
        "rounds": len(rounds),
        "calls": len(calls),
        "moved": len(gaps),
        "failed": sum(call.status != OK for call in calls),
        **_spread("gap", gaps),
        **_spread("detection", delays),
    }


def _spread(name: str, sorted_ms: list[float]) -> Row:
    if not sorted_ms:
        return {f"{name} {which} ms": "-" for which in ("p50", "p99", "max")}
    return {
        f"{name} p50 ms": percentile(sorted_ms, 0.5),
        f"{name} p99 ms": percentile(sorted_ms, 0.99),
        f"{name} max ms": sorted_ms[-1],
    }


def _row(violation: Violation) -> Row:
    return {"call": violation.call_id, "what": violation.kind, "detail": violation.detail}
