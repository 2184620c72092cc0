"""What the pairs of a shadow add up to, whatever their number. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import sqrt
from statistics import median

from mlxmesh_model.experiments import sequences
from mlxmesh_model.experiments.moments import Summary
from mlxmesh_model.shadows.shadow import Batch, DropReason, Pair

ALPHA = 0.05


class Metric(StrEnum):
    """What is compared pair by pair; the values are stored, and are those of the contract."""

    TTFT = "ttft_ms"
    TOKENS_PER_SECOND = "tokens_per_second"
    COMPLETION_TOKENS = "completion_tokens"

    def values(self, pair: Pair) -> tuple[float, float] | None:
        """The primary's and the shadow's; None for a pair that has not both."""
        if self is Metric.COMPLETION_TOKENS:
            return pair.primary_tokens, pair.shadow_tokens
        if self is Metric.TTFT:
            found = pair.primary_ttft_ms, pair.shadow_ttft_ms
        else:
            found = pair.primary_tokens_per_second, pair.shadow_tokens_per_second
        # 0 stands for an answer without tokens, or with too few to have a rate.
        return found if min(found) > 0 else None


@dataclass(frozen=True, slots=True)
class Paired:
    """Sums of a metric over pairs.

    Source: Welford, "Note on a Method for Calculating Corrected Sums of Squares and Products"
    (1962), which stays exact where all values are large and nearly equal.
    """

    count: int = 0
    primary_mean: float = 0.0
    shadow_mean: float = 0.0
    difference: float = 0.0
    """The mean of shadow minus primary."""
    squares: float = 0.0
    """Of the differences less their mean."""

    def add(self, primary: float, shadow: float) -> "Paired":
        count, value = self.count + 1, shadow - primary
        off = value - self.difference
        mean = self.difference + off / count
        return Paired(
            count,
            self.primary_mean + (primary - self.primary_mean) / count,
            self.shadow_mean + (shadow - self.shadow_mean) / count,
            mean,
            self.squares + off * (value - mean),
        )

    @property
    def interval(self) -> sequences.Interval:
        """The mean difference with a confidence sequence: it holds whenever one looks."""
        variance = self.squares / (self.count - 1) if self.count > 1 else 0.0
        error = sqrt(variance / self.count) if self.count else 0.0
        return sequences.mean(Summary(self.count, self.count, self.difference, error), ALPHA)


@dataclass(frozen=True, slots=True)
class Tally:
    """All pairs and drops of a shadow so far."""

    compared: int = 0
    equal: int = 0
    edit_distance: float = 0.0
    """The sum."""
    drops: Mapping[DropReason, int] = field(default_factory=dict[DropReason, int])
    paired: Mapping[Metric, Paired] = field(default_factory=dict[Metric, Paired])

    def add(self, batch: Batch) -> "Tally":
        """With what an instance reports."""
        tally = self
        for pair in batch.pairs:
            tally = tally._with(pair)
        return replace(tally, drops=dict(Counter(self.drops) + Counter(batch.drops)))

    def _with(self, pair: Pair) -> "Tally":
        paired = dict(self.paired)
        for metric in Metric:
            if (values := metric.values(pair)) is not None:
                paired[metric] = paired.get(metric, Paired()).add(*values)
        return Tally(
            self.compared + 1,
            self.equal + pair.equal,
            self.edit_distance + pair.edit_distance,
            self.drops,
            paired,
        )

    @property
    def mean_edit_distance(self) -> float:
        return self.edit_distance / self.compared if self.compared else 0.0


def median_first_difference(pairs: Iterable[Pair]) -> float:
    """Of those that differ; 0 if none does."""
    found: Sequence[int] = [pair.first_difference for pair in pairs if not pair.equal]
    return float(median(found)) if found else 0.0
