"""Slopes of what processes use, robust against jumps, and whether one is a leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WARM_UP, WARM_UP_S = 0.2, 60.0
"""The share of a process's life, and the least time, in which its memory may settle."""
MIN_SAMPLES = 12
MIN_JUDGED_S = 1200.0
"""A slope an hour is not judged by less than 20 minutes: allocators move by megabytes meanwhile."""
_MAX_POINTS = 400
_Z = 1.96


@dataclass(frozen=True)
class Slope:
    """How fast a figure grows, per second, with its interval of 95 %."""

    per_s: float
    low_per_s: float
    high_per_s: float


def slope(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The median of the slopes between all pairs of points, and Sen's interval.

    A few outliers, such as the memory of a burst, do not move it. The interval holds for samples
    that are independent; memory is not, so that in truth it is wider.
    Source: Sen, "Estimates of the Regression Coefficient Based on Kendall's Tau" (1968).
    """
    step = -(-len(times_s) // _MAX_POINTS)
    xs, ys = np.array(times_s[::step], float), np.array(values[::step], float)
    count = len(xs)
    first, second = np.triu_indices(count, k=1)
    slopes = np.sort((ys[second] - ys[first]) / (xs[second] - xs[first]))
    spread = _Z * np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = max(0, int((len(slopes) - spread) / 2))
    high = min(len(slopes) - 1, int((len(slopes) + spread) / 2))
    return Slope(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def settled(times_s: Sequence[float]) -> int:
    """The index of the first sample after the warm-up; len(times_s) if there are too few."""
    if not times_s:
        return 0
    warm_s = max(WARM_UP_S, WARM_UP * (times_s[-1] - times_s[0]))
    first = next(
        (index for index, at_s in enumerate(times_s) if at_s - times_s[0] >= warm_s), len(times_s)
    )
    return first if len(times_s) - first >= MIN_SAMPLES else len(times_s)


def verdict(found: Slope, limit_per_s: float, seconds: float) -> str:
    """`MISSED` if even the low end of the interval is above the limit; `met`, `unclear`, `short`.

    seconds: how long the figure was sampled after its warm-up.
    """
    if seconds < MIN_JUDGED_S:
        return "short"
    if found.per_s <= limit_per_s:
        return "met"
    return "MISSED" if found.low_per_s > limit_per_s else "unclear"
