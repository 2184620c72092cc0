"""Histograms of log scale: small, in order, never far off, and the same however they are merged."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_shared.telemetry.histograms import (
    bucket_of,
    decoded,
    encoded,
    merged,
    middle_us,
    of_durations_ms,
    percentiles_ms,
)

DAY_US = 86_400_000_000
durations = st.integers(min_value=0, max_value=DAY_US)
lists = st.lists(durations.map(lambda each: each / 1000), max_size=50)
percents = st.floats(min_value=0, max_value=100)


@given(durations)
def test_a_bucket_tells_its_durations_within_a_thirty_second(duration_us: int) -> None:
    assert abs(middle_us(bucket_of(duration_us)) - duration_us) <= duration_us / 32


@given(durations, durations)
def test_buckets_are_in_the_order_of_durations(one: int, other: int) -> None:
    shorter, longer = sorted((one, other))
    assert bucket_of(shorter) <= bucket_of(longer)


def test_a_day_has_fewer_than_six_hundred_buckets() -> None:
    assert bucket_of(DAY_US) < 600


def test_percentiles_are_of_all_that_was_counted() -> None:
    counts = {bucket_of(10): 98, bucket_of(1_000_000): 1, bucket_of(20): 1}
    assert percentiles_ms(counts, (50, 90, 99)) == [0.01, 0.01, 0.02]


def test_of_nothing_all_is_zero() -> None:
    assert percentiles_ms({}, (50, 90, 99)) == [0.0, 0.0, 0.0]


@given(lists.filter(bool), percents, percents)
def test_percentiles_never_fall(all_ms: list[float], one: float, other: float) -> None:
    lower, higher = percentiles_ms(of_durations_ms(all_ms), sorted((one, other)))
    assert lower <= higher <= max(all_ms) * (1 + 1 / 31)


@given(st.lists(lists, max_size=5), percents)
def test_a_merged_histogram_has_the_exact_percentiles_of_all(
    groups: list[list[float]], percent: float
) -> None:
    found = percentiles_ms(merged(map(of_durations_ms, groups)), [percent])[0]
    ordered = sorted(each for group in groups for each in group)
    if not ordered:
        assert found == 0.0
        return
    # The nearest rank; a rank that is a whole number may be rounded either way.
    rank = percent * len(ordered) / 100
    ranks = {max(1, math.ceil(rank - 1e-9)), max(1, min(len(ordered), math.ceil(rank + 1e-9)))}
    exact = [ordered[each - 1] for each in ranks]
    assert any(abs(found - each) <= each / 32 + 1e-9 for each in exact)


@given(st.lists(lists, max_size=5))
def test_merging_stored_histograms_is_counting_together(groups: list[list[float]]) -> None:
    together = of_durations_ms(each for group in groups for each in group)
    stored = [encoded(of_durations_ms(group)) for group in groups]
    assert merged(map(decoded, stored)) == together
    assert decoded(encoded(together)) == together


def test_ten_thousand_durations_take_less_than_a_kilobyte() -> None:
    stored = encoded(of_durations_ms(1.0007**each for each in range(10_000)))
    assert len(stored) < 1000


@pytest.mark.parametrize("broken", [b"\x80", b"\x05", b"\x05\x00", b"\x05\x01\x05"])
def test_other_bytes_are_no_histogram(broken: bytes) -> None:
    with pytest.raises(ValueError, match="not a histogram"):
        decoded(broken)
