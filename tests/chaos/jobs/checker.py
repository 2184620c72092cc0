"""Searches what was acknowledged, what jobs say and what their back end recorded. Pure.

It shares no code with the services.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.jobs.record import Event

COMPLETED, FAILED, CANCELLED = "COMPLETED", "FAILED", "CANCELLED"
ENDED = (COMPLETED, FAILED, CANCELLED)
POISONED = "POISONED"


class Kind(StrEnum):
    """A promise that was broken."""

    LOST = "acknowledged, but not there"
    UNENDED = "not ended"
    STORED_TWICE = "listed twice"
    NO_EFFECT = "completed without an effect"
    DOUBLED = "more than one effect"
    STALE = "an older attempt acted after a newer one"
    UNKNOWN_ATTEMPT = "an attempt acted that the job never had"
    WRONG_RESULT = "the result is not that of its effect"


@dataclass(frozen=True)
class Violation:
    """One job that broke one promise."""

    kind: Kind
    job_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A job as it was listed."""

    job_id: str
    state: str
    attempt: int
    reason: str = ""
    """Of its failure."""
    effect: int | None = None
    """The number of the effect in its result, where that was read."""


def check(
    acknowledged: Collection[str], jobs: Sequence[Ended], record: Mapping[str, Sequence[Event]]
) -> list[Violation]:
    """Every violation."""
    found = Counter(each.job_id for each in jobs)
    return [
        *(Violation(Kind.LOST, each, "") for each in acknowledged if each not in found),
        *(Violation(Kind.STORED_TWICE, name, f"{n} times") for name, n in found.items() if n > 1),
        *(violation for each in jobs for violation in _of(each, record.get(each.job_id, ()))),
        *_without_job(found, record),
    ]


def _of(job: Ended, events: Sequence[Event]) -> Iterable[Violation]:
    effects = [each for each in events if each.event == "effect"]
    if job.state not in ENDED:
        yield Violation(Kind.UNENDED, job.job_id, f"{job.state}, attempt {job.attempt}")
    if job.state == COMPLETED and not effects:
        yield Violation(Kind.NO_EFFECT, job.job_id, f"attempt {job.attempt}")
    if len(effects) > 1:
        yield Violation(Kind.DOUBLED, job.job_id, str([each.attempt for each in effects]))
    if job.effect is not None and job.effect not in [each.effect for each in effects]:
        yield Violation(Kind.WRONG_RESULT, job.job_id, f"effect {job.effect}")
    if (latest := max((each.attempt for each in events), default=0)) > job.attempt:
        yield Violation(Kind.UNKNOWN_ATTEMPT, job.job_id, f"{latest}, but it has {job.attempt}")
    yield from _stale(job.job_id, events)


def _stale(job_id: str, events: Sequence[Event]) -> Iterable[Violation]:
    newest = 0
    for each in events:
        # A fenced attempt was refused: it had no effect.
        if each.event == "fenced":
            continue
        if each.attempt < newest:
            detail = f"{each.event} of attempt {each.attempt} after {newest} began"
            yield Violation(Kind.STALE, job_id, detail)
        newest = max(newest, each.attempt)


def _without_job(
    found: Mapping[str, int], record: Mapping[str, Sequence[Event]]
) -> Iterable[Violation]:
    for job_id, events in record.items():
        if job_id not in found and any(each.event == "effect" for each in events):
            yield Violation(Kind.LOST, job_id, "it had an effect")


def success_rate(jobs: Sequence[Ended]) -> float:
    """The part that completed, without poisoned ones."""
    counted = [each for each in jobs if each.reason != POISONED]
    return sum(each.state == COMPLETED for each in counted) / max(1, len(counted))
