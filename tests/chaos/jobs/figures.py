"""From what a run has found to figures beside their targets. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mlxmesh.job.v1 import job_pb2 as pb
from tests.bench.results import Findings, Result, Row
from tests.bench.samples import percentile
from tests.chaos.figures import at_most
from tests.chaos.jobs.checker import Ended, Kind, Violation, check, success_rate
from tests.chaos.jobs.faults import KILL, Fault
from tests.chaos.jobs.record import BEGINS, Event

MIN_SUCCESS, MAX_RECOVERY_S = 0.999, 5.0
_LOST = (Kind.LOST, Kind.UNENDED, Kind.NO_EFFECT)
_DOUBLED = (Kind.DOUBLED, Kind.STORED_TWICE)
_SHOWN = 20


@dataclass(frozen=True)
class Recovery:
    """A job of a worker that was killed."""

    fault: Fault
    seconds: float
    """From the kill to the next begin of the job; infinite if it never began again."""
    noticed_s: float
    """From the kill to the end of the attempt, by the wall clock."""
    why: str
    """How the loss was noticed."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """All that a run has found."""

    acknowledged: Collection[str]
    jobs: Sequence[Ended]
    record: Mapping[str, Sequence[Event]]
    faults: Sequence[Fault]
    recoveries: Sequence[Recovery]
    failures: Mapping[str, int]
    ran_s: float


def recoveries_of(
    jobs: Sequence[pb.Job], faults: Sequence[Fault], record: Mapping[str, Sequence[Event]]
) -> list[Recovery]:
    """Those of all attempts that were lost with a worker that was killed."""
    kills = {each.instance_id: each for each in faults if each.what == KILL}
    found: list[Recovery] = []
    for job in jobs:
        for attempt in job.attempts:
            if attempt.recovery != "worker_lost" or attempt.worker_id not in kills:
                continue
            begins = [
                each.at_s
                for each in record.get(job.job_id, ())
                if each.event in BEGINS and each.attempt > attempt.attempt
            ]
            fault = kills[attempt.worker_id]
            noticed_s = attempt.end_time.ToMilliseconds() / 1000 - fault.wall_s
            if noticed_s < 0:
                continue  # it was lost by a pause, before the kill
            seconds = min(begins, default=math.inf) - fault.at_s
            found.append(Recovery(fault, seconds, noticed_s, attempt.failure.message))
    return found


def findings(outcome: Outcome) -> Findings:
    """What the run comes to."""
    violations = check(outcome.acknowledged, outcome.jobs, outcome.record)
    results = [*_promises(violations), Result("success", success_rate(outcome.jobs), MIN_SUCCESS)]
    recovery = sorted(each.seconds for each in outcome.recoveries)
    if recovery:
        worst_s = percentile(recovery, 0.99)
        results.append(at_most("recovery p99", worst_s, MAX_RECOVERY_S, "s"))
    tables = {"run": [_extent(outcome)], "faults": _faults(outcome)}
    tables["ends"] = _counted("end", Counter(each.state for each in outcome.jobs))
    tables["back end"] = _counted("event", _events(outcome.record))
    if outcome.failures:
        tables["calls without an answer"] = _counted("status", outcome.failures)
    if recovery:
        tables["recovery after kills of workers"] = _histogram(recovery)
        tables["slowest recoveries"] = _slowest(outcome.recoveries)
    if violations:
        tables["violations"] = [_row(each) for each in violations[:_SHOWN]]
    return Findings(results, tables)


def _promises(violations: Sequence[Violation]) -> list[Result]:
    kinds = Counter(each.kind for each in violations)
    other = len(violations) - sum(kinds[kind] for kind in (*_LOST, *_DOUBLED))
    return [
        at_most("jobs lost", sum(kinds[kind] for kind in _LOST), 0),
        at_most("jobs doubled", sum(kinds[kind] for kind in _DOUBLED), 0),
        at_most("acts of fenced attempts, wrong results", other, 0),
    ]


def _extent(outcome: Outcome) -> Row:
    return {
        "jobs": len(outcome.jobs),
        "acknowledged": len(outcome.acknowledged),
        "seconds": outcome.ran_s,
        "jobs/s": len(outcome.jobs) / outcome.ran_s,
        "attempts": sum(each.attempt for each in outcome.jobs),
        "jobs recovered": len(outcome.recoveries),
    }


def _faults(outcome: Outcome) -> list[Row]:
    kinds = Counter((each.what, each.process.partition("-")[0]) for each in outcome.faults)
    return [
        {"fault": what, "of": service, "times": times}
        for (what, service), times in sorted(kinds.items())
    ] or [{"fault": "none", "of": "-", "times": 0}]


def _events(record: Mapping[str, Sequence[Event]]) -> Mapping[str, int]:
    return Counter(each.event for events in record.values() for each in events)


def _counted(name: str, counts: Mapping[str, int]) -> list[Row]:
    return [{name: key, "count": count} for key, count in sorted(counts.items())]


def _histogram(recovery: Sequence[float]) -> list[Row]:
    edges = (0.25, 0.5, 1, 2, 3, 5, 10, math.inf)
    rows: list[Row] = []
    before = -math.inf
    for edge in edges:
        count = sum(before < each <= edge for each in recovery)
        rows.append({"seconds": f"≤ {edge:g}", "jobs": count, "part": count / len(recovery)})
        before = edge
    sorted_s = list(recovery)
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        rows.append({"seconds": name, "jobs": percentile(sorted_s, share), "part": share})
    return rows


def _slowest(recoveries: Sequence[Recovery]) -> list[Row]:
    """The kills after which a job waited longest."""
    by_kill: defaultdict[Fault, list[Recovery]] = defaultdict(list)
    for each in sorted(recoveries, key=lambda each: -each.seconds):
        by_kill[each.fault].append(each)
    return [
        {
            "worker": fault.instance_id,
            "jobs": len(found),
            "noticed s": max(each.noticed_s for each in found),
            "first s": found[-1].seconds,
            "last s": found[0].seconds,
            "by": found[0].why.partition("was lost: ")[2],
        }
        for fault, found in list(by_kill.items())[:_SHOWN]
    ]


def _row(violation: Violation) -> Row:
    return {"job": violation.job_id, "what": violation.kind, "detail": violation.detail}
