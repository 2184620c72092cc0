"""How often experiments find a difference, in simulated traffic.

    .venv/bin/python -m tests.bench.bench_experiments [--rounds 1000] [--json FILE]

Every experiment is looked at after each 100 requests, and ends at the first difference that is
shown. Times to the first token are lognormal. Where there is no difference, at most 5 % of the
experiments may find one; an effect of 20 % must be found in 95 % of them within the number of
subjects that docs/experiments.md promises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlxmesh_model.experiments import sequences
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.moments import Moments, Summary
from tests.bench.results import Findings, Result, Row, run_alone

LOOK = 100
ALPHA = 0.05
PROMISED_ALL, PROMISED_ONE = 4000, 3000
"""Subjects of both arms: with every metric, and with the time to the first token alone."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Traffic:
    """What arrives at an experiment of two arms."""

    spread: float = 0.8
    """The standard deviation of the logarithm of a time."""
    effect: float = 1.0
    """By which the second arm multiplies times."""
    weight: float = 0.5
    """The share of the subjects in the second arm."""
    requests_per_subject: float = 1.0
    alike: float = 0.0
    """The part of the variance of logarithms that requests of one subject have in common."""
    errors: float = 0.0
    """Above 0, the metric is the share of errors instead of the time."""

    @property
    def metric(self) -> Metric:
        return Metric.ERROR if self.errors else Metric.TTFT


def first_found(
    rng: np.random.Generator, traffic: Traffic, *, requests: int, look: int = LOOK, metrics: int = 1
) -> float:
    """After how many requests one experiment first shows a difference; infinite if it never does.

    metrics: how many alpha is divided by.
    """
    for reached, summaries in _looks(rng, traffic, requests, look):
        control, arm = summaries
        if traffic.metric.is_share:
            of = sequences.share_of
            found = sequences.share_difference(of(arm), of(control), ALPHA / metrics)
        else:
            found = sequences.mean_difference(arm, control, ALPHA / metrics)
        if found.excludes_zero:
            return reached
    return math.inf


def _looks(
    rng: np.random.Generator, traffic: Traffic, requests: int, look: int
) -> Iterator[tuple[int, list[Summary]]]:
    subjects, in_second, values = _drawn(rng, traffic, requests)
    sums = [_sums(subjects, values, in_second == second)[look - 1 :: look] for second in (0, 1)]
    for at, rows in enumerate(zip(*sums, strict=True)):
        moments = [Moments.of(row.tolist()) for row in rows]
        if all(each.subjects > 1 for each in moments):
            yield (at + 1) * look, [each.summary(0.0) for each in moments]


def _drawn(
    rng: np.random.Generator, traffic: Traffic, requests: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_], Floats]:
    """The subject, the arm and the value of each request."""
    number = round(requests / traffic.requests_per_subject)
    subjects = np.arange(requests) if number == requests else rng.integers(0, number, requests)
    second = (rng.random(number) < traffic.weight)[subjects]
    effects = np.where(second, traffic.effect, 1.0)
    if traffic.errors:
        return subjects, second, (rng.random(requests) < traffic.errors * effects).astype(float)
    common = rng.standard_normal(number)[subjects] * math.sqrt(traffic.alike)
    own = rng.standard_normal(requests) * math.sqrt(1 - traffic.alike)
    return subjects, second, np.exp(5 + traffic.spread * (common + own)) * effects


def _sums(subjects: NDArray[np.int64], values: Floats, of_arm: NDArray[np.bool_]) -> Floats:
    """The fields of Moments after each request, one row each."""
    values = np.where(of_arm, values, 0.0)
    counted = of_arm.astype(float)
    counts, totals = (_within(subjects, each) for each in (counted, values))
    before = counts - counted, totals - values
    steps = np.stack(
        [
            counted,
            values,
            values**2,
            counted * (counts == 1),
            counts**2 - before[0] ** 2,
            counts * totals - before[0] * before[1],
            totals**2 - before[1] ** 2,
        ],
        axis=1,
    )
    return np.cumsum(steps, axis=0)


def _within(subjects: NDArray[np.int64], values: Floats) -> Floats:
    """The sum of the values of the same subject up to each request."""
    order = np.argsort(subjects, kind="stable")
    ordered, running = subjects[order], np.cumsum(values[order])
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    lengths = np.diff(np.append(starts, len(ordered)))
    earlier = np.concatenate(([0.0], running))[starts]
    sums = np.empty_like(values)
    sums[order] = running - np.repeat(earlier, lengths)
    return sums


_SAME = {
    "equal arms": Traffic(),
    "a wide spread": Traffic(spread=1.5),
    "an arm of 10 %, a wide spread": Traffic(spread=1.5, weight=0.1),
    "8 alike requests a subject": Traffic(requests_per_subject=8, alike=0.7),
    "errors of 2 %": Traffic(errors=0.02),
    "errors of 2 %, an arm of 10 %": Traffic(errors=0.02, weight=0.1),
}


def measure(rounds: int, requests: list[int]) -> Findings:
    """Every kind of traffic in turn."""
    rng = np.random.default_rng(20260301)
    results: list[Result] = []
    rows: list[Row] = []
    for name, traffic in _SAME.items():
        found = _found(rng, traffic, rounds, requests[0])
        share = float(np.isfinite(found).mean())
        results.append(Result(f"false positives, {name}", share, ALPHA, at_least=False))
    for metrics, promised in ((1, PROMISED_ONE), (len(Metric), PROMISED_ALL)):
        for spread in (0.5, 0.83):
            traffic = Traffic(spread=spread, effect=1.2)
            found = _found(rng, traffic, rounds, 2 * promised, metrics)
            rows.append(
                {
                    "metrics": metrics,
                    "spread": spread,
                    "half found after": float(np.quantile(found, 0.5, method="higher")),
                    "95 % found after": float(np.quantile(found, 0.95, method="higher")),
                }
            )
            share = float((found <= promised).mean())
            name = f"20 % found within {promised} subjects, {metrics} metrics, spread {spread}"
            results.append(Result(name, share, 0.95))
    return Findings(results, {"an effect of 20 %, in subjects of both arms": rows})


def _found(
    rng: np.random.Generator, traffic: Traffic, rounds: int, requests: int, metrics: int = 1
) -> Floats:
    return np.array(
        [first_found(rng, traffic, requests=requests, metrics=metrics) for _ in range(rounds)]
    )


if __name__ == "__main__":
    run_alone(__doc__, measure, rounds=1000, requests=[10_000])
