"""Compares the arms of an experiment. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from mlxmesh_model.experiments import sequences
from mlxmesh_model.experiments.experiment import Experiment
from mlxmesh_model.experiments.metrics import Metric
from mlxmesh_model.experiments.moments import Moments, Summary
from mlxmesh_model.experiments.sequences import Interval
from mlxmesh_model.experiments.tally import Record

MAX_COURSE = 200

Point = Mapping[str, Summary]
"""The arms at an earlier time."""


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm by one metric."""

    arm: str
    values: int
    subjects: int
    mean: Interval
    difference: Interval | None = None
    """From the first arm; None for that one itself."""
    relative_difference: float | None = None
    effect_size: float | None = None
    course: Sequence[tuple[int, Interval]] = ()
    """The difference after earlier numbers of values of this arm."""

    @property
    def significant(self) -> bool:
        return self.difference is not None and self.difference.excludes_zero


@dataclass(frozen=True, slots=True)
class MetricResult:
    """The arms that have values, by one metric."""

    metric: Metric
    arms: Sequence[ArmResult]


@dataclass(frozen=True, slots=True)
class Levels:
    """How alpha is divided: all differences of an analysis together miss with this probability, and
    so do all means.
    """

    alpha: float
    metrics: int
    arms: int

    @property
    def difference(self) -> float:
        return self.alpha / (self.metrics * (self.arms - 1))

    @property
    def mean(self) -> float:
        return self.alpha / (self.metrics * self.arms)


def analyze(
    experiment: Experiment,
    records: Mapping[Metric, Record],
    courses: Mapping[Metric, Sequence[Point]],
    *,
    alpha: float,
    metrics: Sequence[Metric] = (),
) -> list[MetricResult]:
    """The metrics that have values, of those that are named; by default, of all."""
    chosen = list(dict.fromkeys(metrics)) or list(Metric)
    levels = Levels(alpha, len(chosen), len(experiment.plan.arms))
    return [
        _compare(experiment, metric, records[metric], courses.get(metric, ()), levels)
        for metric in chosen
        if metric in records
    ]


def _compare(
    experiment: Experiment,
    metric: Metric,
    record: Record,
    course: Sequence[Point],
    levels: Levels,
) -> MetricResult:
    now, control = record.summaries(), experiment.control.name
    results: list[ArmResult] = []
    for name in (arm.name for arm in experiment.plan.arms):
        if name not in now:
            continue
        arm, level = now[name], levels.mean
        interval = _mean(metric, arm, level)
        if name == control or control not in now:
            results.append(ArmResult(name, arm.count, arm.subjects, interval))
            continue
        first = now[control]
        difference = _difference(metric, arm, first, levels.difference)
        results.append(
            ArmResult(
                name,
                arm.count,
                arm.subjects,
                interval,
                difference,
                difference.mean / first.mean if first.mean else None,
                effect_size(record.arms[name], record.arms[control]),
                _course(metric, name, control, course, levels.difference),
            )
        )
    return MetricResult(metric, results)


def effect_size(arm: Moments, control: Moments) -> float | None:
    """Cohen's d: the difference of the means in pooled standard deviations of single values."""
    degrees = arm.count + control.count - 2
    if degrees < 1:
        return None
    squares = arm.variance * (arm.count - 1) + control.variance * (control.count - 1)
    deviation = sqrt(squares / degrees)
    difference = arm.total / arm.count - control.total / control.count
    return difference / deviation if deviation > 0 else None


def _mean(metric: Metric, arm: Summary, alpha: float) -> Interval:
    if metric.is_share:
        return sequences.share(sequences.share_of(arm), alpha)
    return sequences.mean(arm, alpha)


def _difference(metric: Metric, arm: Summary, control: Summary, alpha: float) -> Interval:
    if metric.is_share:
        share_of = sequences.share_of
        return sequences.share_difference(share_of(arm), share_of(control), alpha)
    return sequences.mean_difference(arm, control, alpha)


def _course(
    metric: Metric, name: str, control: str, points: Sequence[Point], alpha: float
) -> list[tuple[int, Interval]]:
    return [
        (point[name].count, _difference(metric, point[name], point[control], alpha))
        for point in points[-MAX_COURSE:]
        if name in point and control in point
    ]
