"""A circuit breaker: after too many failures calls go elsewhere, until a probe succeeds. Pure.

It never refuses a call: `ready` advises the caller that picks an instance. The last instance of a
service is used even if its breaker is open.

Source: M. Nygard, "Release It!" (2007), the pattern; Envoy's outlier detection, the two triggers.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mlxmesh_shared.errors import Cancelled, DeadlineExceeded, Internal, MeshError


class BreakerState(Enum):
    """The state of a breaker, by the usual names."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class BreakerPolicy:
    """When a breaker opens, and for how long."""

    consecutive_failures: int = 5
    window_s: float = 10.0
    window_calls: int = 10
    """The ratio is judged only if the window has at least this many calls."""
    failure_ratio: float = 0.5
    backoff_min_s: float = 0.5
    backoff_max_s: float = 30.0
    reconnected_s: float = 1.0
    """The longest pause once a lost connection is back: long enough for one that comes and goes."""
    probe_timeout_s: float = 10.0
    """After this time without an answer to a probe, another call may be the probe."""


Classifier = Callable[[MeshError], bool]
"""Whether an error that an instance answered with is a failure of that instance."""


def is_internal(error: MeshError) -> bool:
    """The classifier for instances that have no failures of their own kind."""
    return isinstance(error, Internal)


class Breaker:
    """Rates one instance by the outcomes of its calls; all times are those of `now_s`."""

    def __init__(
        self,
        policy: BreakerPolicy = BreakerPolicy(),
        *,
        is_failure: Classifier = is_internal,
        now_s: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
        on_change: "Callable[[Breaker], None]" = lambda _: None,
    ) -> None:
        """`on_change` is called when the breaker opens and when it closes again."""
        self.is_failure = is_failure
        self._policy = policy
        self._on_change = on_change
        self._now_s = now_s
        self._uniform = uniform
        self._outcomes = _Outcomes(policy.window_s)
        self._consecutive = 0
        self._openings = 0
        self._opened_s = 0.0
        self._retry_s: float | None = None
        """When a probe is allowed; None while closed."""
        self._probe: Permit | None = None
        self._failures = 0

    @property
    def state(self) -> BreakerState:
        if self._retry_s is None:
            return BreakerState.CLOSED
        return BreakerState.HALF_OPEN if self._now_s() >= self._retry_s else BreakerState.OPEN

    @property
    def ready(self) -> bool:
        """Whether to pick this instance: closed, or half-open without a running probe."""
        return self._retry_s is None or self._may_probe()

    @property
    def failures(self) -> int:
        """Failed calls since the breaker last closed."""
        return self._failures

    @property
    def retry_in_s(self) -> float:
        """Seconds until a probe is allowed; 0 unless open."""
        return 0.0 if self._retry_s is None else max(0.0, self._retry_s - self._now_s())

    def admit(self) -> "Permit":
        """Registers a call, as the probe if one is due; its permit gets the outcome."""
        permit = Permit(self, self._now_s())
        if self._retry_s is not None and self._may_probe():
            self._probe = permit
        return permit

    def is_probe(self, permit: "Permit") -> bool:
        """Whether this call is the probe."""
        return permit is self._probe

    def on_alive(self, permit: "Permit") -> None:
        """The instance answered; if the call began after the breaker opened, the breaker closes."""
        if self._retry_s is not None and permit.started_s >= self._opened_s:
            self._close()

    def on_success(self, permit: "Permit") -> None:
        """A call succeeded."""
        self.on_alive(permit)
        self._consecutive = 0
        self._outcomes.add(self._now_s(), failed=False)

    def on_failure(self, permit: "Permit", *, at_once: bool) -> None:
        """A call failed; `at_once` opens the breaker regardless of other calls."""
        self._failures += 1
        self._consecutive += 1
        self._outcomes.add(self._now_s(), failed=True)
        probe_failed = self._retry_s is not None and self.is_probe(permit)
        if probe_failed or (self._retry_s is None and (at_once or self._exceeds_limits())):
            self._open()

    def reconnected(self) -> None:
        """A connection to the peer is back: a probe need not wait for the rest of a long pause."""
        if self._retry_s is not None:
            self._retry_s = min(self._retry_s, self._now_s() + self._policy.reconnected_s)

    def on_end(self, permit: "Permit") -> None:
        """A call ended, with any outcome."""
        if self.is_probe(permit):
            self._probe = None

    def _may_probe(self) -> bool:
        if self.state is not BreakerState.HALF_OPEN:
            return False
        waited_s = self._now_s() - self._probe.started_s if self._probe is not None else None
        return waited_s is None or waited_s >= self._policy.probe_timeout_s

    def _exceeds_limits(self) -> bool:
        policy, now_s = self._policy, self._now_s()
        if self._consecutive >= policy.consecutive_failures:
            return True
        calls, failures = self._outcomes.count(now_s)
        return calls >= policy.window_calls and failures >= policy.failure_ratio * calls

    def _open(self) -> None:
        self._opened_s = self._now_s()
        doubled_s = self._policy.backoff_min_s * 2.0 ** min(self._openings, 32)
        # Jitter of up to a half, so that many observers do not probe at the same moment.
        pause_s = min(self._policy.backoff_max_s, doubled_s) * (1 - self._uniform() / 2)
        was_closed = self._retry_s is None
        self._retry_s = self._opened_s + pause_s
        self._openings += 1
        self._probe = None
        if was_closed:
            self._on_change(self)

    def _close(self) -> None:
        self._retry_s = self._probe = None
        self._openings = self._consecutive = self._failures = 0
        self._outcomes = _Outcomes(self._policy.window_s)
        self._on_change(self)


class Permit:
    """One call through a breaker; only its first outcome counts."""

    def __init__(self, breaker: Breaker, started_s: float) -> None:
        self.started_s = started_s
        self._breaker = breaker
        self._ended = False

    def answered(self) -> None:
        """The instance answered, for example a stream began; the call continues."""
        if not self._ended:
            self._breaker.on_alive(self)

    def succeeded(self) -> None:
        """The call succeeded, or the instance rejected it for a reason of the call's own."""
        if not self._ended:
            self._breaker.on_success(self)
            self.drop()

    def failed(self, *, at_once: bool = False) -> None:
        """The call failed because of the instance; `at_once` when the instance was lost."""
        if not self._ended:
            self._breaker.on_failure(self, at_once=at_once)
            self.drop()

    def ended_by(self, error: MeshError) -> None:
        """The call ended with an error that the instance answered with."""
        slow_probe = isinstance(error, DeadlineExceeded) and self._breaker.is_probe(self)
        if self._breaker.is_failure(error) or slow_probe:
            self.failed()
        elif isinstance(error, DeadlineExceeded | Cancelled):
            self.drop()
        else:
            self.succeeded()

    def drop(self) -> None:
        """The call ended, and its outcome says nothing about the instance."""
        self._ended = True
        self._breaker.on_end(self)


class _Outcomes:
    """Counts of the last seconds in buckets of one second, so that memory is bounded."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        # (second, calls, failures), oldest first
        self._buckets: deque[tuple[int, int, int]] = deque()

    def add(self, now_s: float, *, failed: bool) -> None:
        second, calls, failures = int(now_s), 0, 0
        if self._buckets and self._buckets[-1][0] == second:
            _, calls, failures = self._buckets.pop()
        self._buckets.append((second, calls + 1, failures + failed))
        self._drop_old(now_s)

    def count(self, now_s: float) -> tuple[int, int]:
        """Calls and failures within the window."""
        self._drop_old(now_s)
        calls = sum(bucket[1] for bucket in self._buckets)
        return calls, sum(bucket[2] for bucket in self._buckets)

    def _drop_old(self, now_s: float) -> None:
        while self._buckets and self._buckets[0][0] <= now_s - self._window_s:
            self._buckets.popleft()
