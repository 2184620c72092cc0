"""Histograms of durations in log-scale buckets: counts by bucket, which add up. Pure.

Source: G. Tene, HdrHistogram (2012): buckets are linear within each doubling.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

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


def of_durations_ms(durations_ms: Iterable[float]) -> Counter[int]:
    """The histogram of some durations, none of them negative."""
    return Counter(bucket_of(round(each * 1000)) for each in durations_ms)


def merged(histograms: Iterable[Mapping[int, int]]) -> Counter[int]:
    """The histogram of everything that several ones have counted."""
    result: Counter[int] = Counter()
    for counts in histograms:
        result.update(counts)
    return result


def percentiles_ms(counts: Mapping[int, int], percents: Iterable[float]) -> list[float]:
    """The durations that so many percent of the counted ones do not exceed; 0 without any."""
    total = sum(counts.values())
    ordered = sorted(counts)

    def percentile_ms(percent: float) -> float:
        rank, seen = percent * total, 0
        for bucket in ordered:
            seen += counts[bucket]
            if 100 * seen >= rank:
                return middle_us(bucket) / 1000
        return 0.0

    return [percentile_ms(each) for each in percents]


def encoded(counts: Mapping[int, int]) -> bytes:
    """The stored form: by bucket, its distance from the one before and its count, as varints."""
    result, before = bytearray(), 0
    for bucket in sorted(counts):
        if counts[bucket]:
            result += _varint(bucket - before) + _varint(counts[bucket])
            before = bucket
    return bytes(result)


def decoded(stored: bytes) -> Counter[int]:
    """The histogram of a stored form. Raises: ValueError for bytes that are none."""
    result: Counter[int] = Counter()
    numbers, bucket = _numbers(stored), 0
    for distance in numbers:
        bucket += distance
        count = next(numbers, 0)
        if not count:
            raise ValueError("not a histogram: a bucket without a count")
        result[bucket] += count
    return result


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _numbers(stored: bytes) -> Iterator[int]:
    number, shift = 0, 0
    for byte in stored:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield number
            number, shift = 0, 0
    if shift:
        raise ValueError("not a histogram: it ends within a number")
