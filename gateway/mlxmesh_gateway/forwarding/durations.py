"""Histograms of durations in log-scale buckets. Pure.

Source: G. Tene, HdrHistogram (2012): buckets are linear within each doubling.
"""

from collections.abc import Mapping

from mlxmesh.telemetry.v1.traffic_pb2 import Percentiles

_STEPS = 16
"""Buckets per doubling: a duration is exact to a thirty-second of its value."""
_STEP_BITS = 4


def bucket_of(duration_us: int) -> int:
    """The bucket of a duration in microseconds."""
    shift = duration_us.bit_length() - 1 - _STEP_BITS
    return duration_us if shift <= 0 else shift * _STEPS + (duration_us >> shift)


def middle_us(bucket: int) -> float:
    """The middle of a bucket, in microseconds; the number itself in a bucket of one."""
    if bucket < 2 * _STEPS:
        return float(bucket)
    shift = bucket // _STEPS - 1
    lowest = (_STEPS + bucket % _STEPS) << shift
    return lowest + ((1 << shift) - 1) / 2


def percentiles(counts: Mapping[int, int]) -> Percentiles:
    """Of counts by bucket."""
    total = sum(counts.values())
    ordered = sorted(counts)

    def at_most_ms(part: float) -> float:
        rank, seen = part * total, 0
        for bucket in ordered:
            seen += counts[bucket]
            if seen >= rank:
                return middle_us(bucket) / 1000
        return 0.0

    return Percentiles(
        count=total, p50_ms=at_most_ms(0.5), p90_ms=at_most_ms(0.9), p99_ms=at_most_ms(0.99)
    )
