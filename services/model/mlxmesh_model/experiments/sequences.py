"""Confidence sequences: intervals that hold at all times at once. Pure.

Means have asymptotic confidence sequences, which need a finite variance alone. Shares have exact
ones. Each needs only what Summary has, whatever the number of values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp, inf, lgamma, log, sqrt

from mlxmesh_model.experiments.moments import Summary

MIN_SUBJECTS = 100
"""Before an arm has this many, the mean of its values has no finite interval."""
OPTIMAL_SUBJECTS = 2_000
"""The number of subjects, of both arms, at which intervals of means are narrowest relative to those
of a fixed sample size. It has no effect on their validity."""
_PRIOR = 0.5
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its ends."""

    mean: float
    lower: float
    upper: float

    @property
    def excludes_zero(self) -> bool:
        return self.lower > 0 or self.upper < 0


def mean(arm: Summary, alpha: float) -> Interval:
    """The interval of a mean."""
    radius = _radius(arm.error, arm.subjects, alpha) if arm.subjects >= MIN_SUBJECTS else inf
    return Interval(arm.mean, arm.mean - radius, arm.mean + radius)


def mean_difference(arm: Summary, control: Summary, alpha: float) -> Interval:
    """The interval of the difference of two means: that of `arm` minus that of `control`."""
    radius, difference = inf, arm.mean - control.mean
    if min(arm.subjects, control.subjects) >= MIN_SUBJECTS:
        radius = _radius(_error(arm, control), arm.subjects + control.subjects, alpha)
    return Interval(difference, difference - radius, difference + radius)


def _error(arm: Summary, control: Summary) -> float:
    """The standard error of a difference: the larger of Welch's and of the pooled one.

    In a small arm of skewed values, a mean that is too low comes with a variance that is too low;
    the pooled one does not follow it.
    """
    welch, subjects = arm.error**2 + control.error**2, arm.subjects + control.subjects
    squares = (arm.error * arm.subjects) ** 2 + (control.error * control.subjects) ** 2
    pooled = squares / subjects * (1 / arm.subjects + 1 / control.subjects)
    return sqrt(max(welch, pooled))


def _radius(error: float, subjects: int, alpha: float) -> float:
    """Half the width of an asymptotic confidence sequence by Robbins' normal mixture.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, Time-uniform central limit theory and
    asymptotic confidence sequences, Annals of Statistics 2024, theorem 2.2 and appendix B.2.
    """
    doubled = -2 * log(alpha)
    rho = OPTIMAL_SUBJECTS / (doubled + log(doubled + 1))
    return error * sqrt((1 + rho / subjects) * (doubled + log((subjects + rho) / rho)))


# Shares: means of values that are 0 or 1.


@dataclass(frozen=True, slots=True)
class Share:
    """How many of so many values are 1; a fraction where requests of subjects are alike."""

    ones: float
    values: float

    @property
    def mean(self) -> float:
        return self.ones / self.values

    @property
    def zeros(self) -> float:
        return self.values - self.ones

    def evidence(self, share: float) -> float:
        """The logarithm of an e-process against a true share: its beta-binomial mixture.

        Source: Howard, Ramdas, McAuliffe, Sekhon, Time-uniform, nonparametric, nonasymptotic
        confidence sequences, Annals of Statistics 2021.
        """
        mixture = _log_beta(_PRIOR + self.ones, _PRIOR + self.zeros) - _log_beta(_PRIOR, _PRIOR)
        return mixture - _times_log(self.ones, share) - _times_log(self.zeros, 1 - share)

    def highest(self, slope: float) -> float:
        """The share above the mean at which the evidence grows with this slope."""
        rest = self.values - slope
        root = sqrt(rest * rest + 4 * slope * self.ones)
        if rest > 0:
            return min(1.0, 2 * self.ones / (rest + root))
        return min(1.0, (root - rest) / (2 * slope))

    def mirrored(self) -> "Share":
        """That of the values that are 0."""
        return Share(self.zeros, self.values)


def share_of(arm: Summary) -> Share:
    """The share of an arm, with as many values as independent requests would need for its standard
    error: the method of Rao and Scott, A simple method for the analysis of clustered binary data,
    Biometrics 1992.
    """
    independent = arm.mean * (1 - arm.mean) / arm.count
    effect = arm.error**2 / independent if independent > 0 else 1.0
    values = arm.count / max(1.0, effect)
    return Share(arm.mean * values, values)


def share(arm: Share, alpha: float) -> Interval:
    """The exact interval of a share."""
    return Interval(arm.mean, 1 - _upper_share(arm.mirrored(), alpha), _upper_share(arm, alpha))


def share_difference(arm: Share, control: Share, alpha: float) -> Interval:
    """The exact interval of the difference of two shares: all differences of pairs of shares that
    the product of both e-processes does not refute.
    """
    upper = _upper_difference(arm, control, alpha)
    lower = -_upper_difference(control, arm, alpha)
    difference = arm.mean - control.mean
    # The ends are computed apart from it, and rounded.
    return Interval(difference, min(lower, difference), max(upper, difference))


def _upper_share(arm: Share, alpha: float) -> float:
    limit = -log(alpha)
    return arm.highest(_slope(lambda slope: arm.evidence(arm.highest(slope)), limit, arm.values))


def _upper_difference(arm: Share, control: Share, alpha: float) -> float:
    """The largest difference that is not refuted: there, the evidence of both has one slope."""
    limit, zeros = -log(alpha), control.mirrored()

    def evidence(slope: float) -> float:
        return arm.evidence(arm.highest(slope)) + zeros.evidence(zeros.highest(slope))

    slope = _slope(evidence, limit, arm.values + control.values)
    return arm.highest(slope) + zeros.highest(slope) - 1


def _slope(evidence: Callable[[float], float], limit: float, values: float) -> float:
    """The slope at which the evidence reaches a limit, found by halving its logarithm."""
    low, high = log(1e-9), log(1e9 * (1 + values))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if evidence(exp(middle)) < limit:
            low = middle
        else:
            high = middle
    return exp(high)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def _times_log(factor: float, share: float) -> float:
    if factor == 0:
        return 0.0
    return factor * log(share) if share > 0 else -inf
