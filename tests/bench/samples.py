"""What one measurement of one server gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One measurement."""

    tokens_per_second: float
    ttft_s: list[float]
    """Time to first token of each stream, sorted."""
    chunks: int | None = None
    """Messages with text, over all streams; None where there is no wire."""


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of the sorted values lies."""
    return values[min(len(values) - 1, int(share * len(values)))]
