"""A histogram for places where a microsecond counts: plain counts, read now and then."""

from bisect import bisect_left
from collections.abc import Sequence


class BucketCounts:
    """Counts values by upper bounds; written by one thread, read by any.

    A reader may see a value's count without its sum; the next reading has both.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.total = 0.0
        self.least = float("inf")
        self.most = float("-inf")
        self._counts = [0] * (len(self.bounds) + 1)

    def record(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        if value < self.least:
            self.least = value
        if value > self.most:
            self.most = value

    @property
    def counts(self) -> list[int]:
        """One for each bound, values up to it, and one for those beyond the last."""
        return self._counts.copy()
