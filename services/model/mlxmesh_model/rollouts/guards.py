"""What requests of a step say about its guards. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mlxmesh_model.outcomes.outcome import Outcome, Status
from mlxmesh_model.rollouts.rollout import RATES, Guard, Metric, Reading
from mlxmesh_model.rollouts.sequential import ALPHA, is_above, lower_bound, upper_bound
from mlxmesh_shared.telemetry.histograms import merged, of_durations_ms, percentiles_ms

_COUNTED = frozenset({Status.COMPLETED, Status.FAILED})
"""A refusal would occur at any version, and a cancellation says nothing about one."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The requests of one version in one step; times are counted by bucket."""

    requests: int = 0
    errors: int = 0
    tokens: int = 0
    """Generated tokens of requests without an error."""
    judged: int = 0
    """Requests whose output has a schema or tools."""
    invalid: int = 0
    ttft: Mapping[int, int] = field(default_factory=dict[int, int])
    tpot: Mapping[int, int] = field(default_factory=dict[int, int])

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.tokens + other.tokens,
            self.judged + other.judged,
            self.invalid + other.invalid,
            merged((self.ttft, other.ttft)),
            merged((self.tpot, other.tpot)),
        )


def count(outcome: Outcome) -> Counts:
    """One outcome."""
    if outcome.status not in _COUNTED:
        return Counts()
    if outcome.failed:
        return Counts(requests=1, errors=1)
    verdicts = [v for v in (outcome.schema_valid, outcome.tools_valid) if v is not None]
    return Counts(
        requests=1,
        tokens=outcome.completion_tokens,
        judged=1 if verdicts else 0,
        invalid=0 if all(verdicts) else 1,
        ttft=_histogram(outcome.ttft_ms),
        tpot=_histogram(outcome.tpot_ms),
    )


def read(guard: Guard, new: Counts, present: Counts) -> Reading:
    """What a guard measures; a bound without anything to compare is kept."""
    value, baseline = _value(guard.metric, new), _value(guard.metric, present)
    bound = guard.bound
    if guard.relative:
        bound = guard.bound * baseline if baseline is not None else None
    if value is None or bound is None:
        return Reading(guard, value, baseline, kept=True)
    kept = value >= bound if guard.above else value <= bound
    certain = not kept and _is_certain(guard, new, present)
    return Reading(guard, value, baseline, kept, certain)


def _is_certain(guard: Guard, new: Counts, present: Counts) -> bool:
    """Whether a rate breaks its upper bound beyond chance."""
    if guard.metric not in RATES or guard.above:
        return False
    hits, trials = _rate(guard.metric, new)
    if not guard.relative:
        return is_above(hits, trials, guard.bound)
    highest = upper_bound(*_rate(guard.metric, present), ALPHA / 2)
    return lower_bound(hits, trials, ALPHA / 2) > guard.bound * highest


def _rate(metric: Metric, counts: Counts) -> tuple[int, int]:
    """How many requests are bad, and of how many."""
    if metric is Metric.ERROR_RATE:
        return counts.errors, counts.requests
    return counts.invalid, counts.judged


def _value(metric: Metric, counts: Counts) -> float | None:
    return _VALUES[metric](counts)


def _share(metric: Metric) -> Callable[[Counts], float | None]:
    def value(counts: Counts) -> float | None:
        hits, trials = _rate(metric, counts)
        return hits / trials if trials else None

    return value


def _mean_tokens(counts: Counts) -> float | None:
    completed = counts.requests - counts.errors
    return counts.tokens / completed if completed else None


def _percentile(times: Mapping[int, int], percent: int) -> float | None:
    return percentiles_ms(times, [percent])[0] if times else None


def _histogram(time_ms: float | None) -> Mapping[int, int]:
    return of_durations_ms([] if time_ms is None else [time_ms])


_VALUES: Mapping[Metric, Callable[[Counts], float | None]] = {
    Metric.ERROR_RATE: _share(Metric.ERROR_RATE),
    Metric.INVALID_RATE: _share(Metric.INVALID_RATE),
    Metric.TOKENS_PER_REQUEST: _mean_tokens,
    Metric.TTFT_P50: lambda counts: _percentile(counts.ttft, 50),
    Metric.TTFT_P95: lambda counts: _percentile(counts.ttft, 95),
    Metric.TTFT_P99: lambda counts: _percentile(counts.ttft, 99),
    Metric.TPOT_P50: lambda counts: _percentile(counts.tpot, 50),
    Metric.TPOT_P95: lambda counts: _percentile(counts.tpot, 95),
}
