"""What follows a failed attempt: recovery strategies, as data."""

import random
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What went wrong with an attempt."""

    JOB = "job"
    """The job itself: another attempt would fail too."""
    TRANSIENT = "transient"
    """Something that another attempt may not meet."""
    SERVICE_UNAVAILABLE = "service_unavailable"
    """The back end, or the mesh, cannot be reached or is full."""
    TIMEOUT = "timeout"
    """The attempt took too long."""
    WORKER_LOST = "worker_lost"
    """Its worker died, or was silent for its lease."""
    WORKER_STUCK = "worker_stuck"
    """Its worker lives, but had no news of the attempt for too long."""


class Counter(StrEnum):
    """What a strategy counts failed attempts by; each has a limit of its own."""

    FAILURES = "failures"
    UNAVAILABLE = "unavailable"
    LOSSES = "losses"


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """What to do about one kind of fault."""

    name: str
    """As in JobAttempt.recovery and in metrics."""
    counts: Counter
    limit: int | None
    """After this many failures of its counter the job fails; None for the job's own limit."""
    delays: bool = True
    """Whether the next attempt waits; else it follows at once."""
    reason: str = ""
    """The reason of a job that fails by this limit; empty for that of its last attempt."""


POISONED = "POISONED"
"""The reason of a job that was running each time several workers were lost."""
STRATEGIES: dict[Fault, Strategy] = {
    Fault.JOB: Strategy(name="none", counts=Counter.FAILURES, limit=0),
    Fault.TRANSIENT: Strategy(name="retry", counts=Counter.FAILURES, limit=None),
    Fault.TIMEOUT: Strategy(name="job_timeout", counts=Counter.FAILURES, limit=None),
    # A back end that is down for an hour must not use up the attempts of every job.
    Fault.SERVICE_UNAVAILABLE: Strategy(
        name="service_unavailable", counts=Counter.UNAVAILABLE, limit=100
    ),
    Fault.WORKER_STUCK: Strategy(name="worker_stuck", counts=Counter.FAILURES, limit=None),
    Fault.WORKER_LOST: Strategy(
        name="worker_lost", counts=Counter.LOSSES, limit=10, delays=False, reason=POISONED
    ),
}
"""One for each fault. `poisoned` is worker_lost at its limit."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often a job is tried, as in the contract, with its defaults filled in."""

    max_attempts: int = 5
    initial_delay_ms: int = 1_000
    max_delay_ms: int = 300_000


@dataclass(frozen=True, kw_only=True)
class Counts:
    """The failed attempts of a job so far."""

    failures: int = 0
    unavailable: int = 0
    losses: int = 0

    def plus(self, counter: Counter) -> "Counts":
        """One more."""
        return Counts(
            failures=self.failures + (counter is Counter.FAILURES),
            unavailable=self.unavailable + (counter is Counter.UNAVAILABLE),
            losses=self.losses + (counter is Counter.LOSSES),
        )

    def of(self, counter: Counter) -> int:
        """How many a counter has."""
        return {"failures": self.failures, "unavailable": self.unavailable, "losses": self.losses}[
            counter.value
        ]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What follows a failed attempt."""

    recovery: str
    """The strategy's name, `poisoned` at the limit of lost workers, `none` if the job fails for a
    reason of its own."""
    counts: Counts
    delay_ms: int | None
    """Until the next attempt; None when the job fails."""
    reason: str = ""
    """The reason that replaces the attempt's own when the job fails; empty to keep it."""


def decide(
    fault: Fault, counts: Counts, policy: RetryPolicy, *, jitter: float | None = None
) -> Decision:
    """What follows an attempt that failed.

    counts: the failures before this one.
    jitter: from -1 to 1; random by default.
    """
    strategy = STRATEGIES[fault]
    now = counts.plus(strategy.counts)
    limit = policy.max_attempts if strategy.limit is None else strategy.limit
    if now.of(strategy.counts) >= limit:
        recovery = "poisoned" if strategy.reason == POISONED else strategy.name
        return Decision(recovery=recovery, counts=now, delay_ms=None, reason=strategy.reason)
    delay_ms = 0
    if strategy.delays:
        delay_ms = _delay_ms(policy, now.of(strategy.counts), jitter)
    return Decision(recovery=strategy.name, counts=now, delay_ms=delay_ms)


def _delay_ms(policy: RetryPolicy, failures: int, jitter: float | None) -> int:
    """Doubles with each failure, and varies by up to a fifth."""
    longest = min(policy.initial_delay_ms * 2.0 ** min(failures - 1, 40), policy.max_delay_ms)
    spread = random.uniform(-1, 1) if jitter is None else jitter
    return max(0, round(longest * (1 + spread / 5)))
