"""Sums over the values of an arm from which means and their standard errors follow. Pure.

Requests of one subject are alike, so the standard error is computed over subjects: the mean is the
ratio of the subjects' totals to the subjects' counts, and its variance follows by the delta method.
Source: Deng, Knoblich, Lu, Applying the Delta Method in Metric Analytics, KDD 2018, section 3.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt


@dataclass(frozen=True, slots=True)
class Cluster:
    """The values of one subject: how many, and their total."""

    count: int = 0
    total: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What an interval needs to know of the values of an arm."""

    count: int
    subjects: int
    mean: float
    error: float
    """The standard error of the mean."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over values, less an origin near them, and over subjects."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    subjects: int = 0
    counts_squared: float = 0.0
    counts_totals: float = 0.0
    totals_squared: float = 0.0

    def add(self, value: float, cluster: Cluster) -> tuple["Moments", Cluster]:
        """With another value of a subject, whose earlier values are `cluster`."""
        grown = Cluster(cluster.count + 1, cluster.total + value)
        return replace(
            self.moved(cluster, grown),
            count=self.count + 1,
            squares=self.squares + value * value,
            subjects=self.subjects + (cluster.count == 0),
        ), grown

    def moved(self, before: Cluster, after: Cluster) -> "Moments":
        """With other sums of one subject."""
        return replace(
            self,
            total=self.total + after.total - before.total,
            counts_squared=self.counts_squared + after.count**2 - before.count**2,
            counts_totals=self.counts_totals
            + after.count * after.total
            - before.count * before.total,
            totals_squared=self.totals_squared + after.total**2 - before.total**2,
        )

    @property
    def variance(self) -> float:
        """Of single values."""
        if self.count < 2:
            return 0.0
        return max(0.0, self.squares - self.total**2 / self.count) / (self.count - 1)

    def summary(self, origin: float) -> Summary:
        """The mean and its standard error; there must be a value."""
        ratio = self.total / self.count
        spread = (
            self.totals_squared - 2 * ratio * self.counts_totals + ratio**2 * self.counts_squared
        )
        few = self.subjects / (self.subjects - 1) if self.subjects > 1 else 1.0
        error = sqrt(max(0.0, spread) * few) / self.count
        return Summary(self.count, self.subjects, origin + ratio, error)

    def values(self) -> list[float]:
        """Its fields in order, as they are stored."""
        return [
            self.count,
            self.total,
            self.squares,
            self.subjects,
            self.counts_squared,
            self.counts_totals,
            self.totals_squared,
        ]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Moments":
        """From stored fields."""
        count, total, squares, subjects, *rest = values
        return cls(int(count), total, squares, int(subjects), *rest)
