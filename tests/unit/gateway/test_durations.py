"""Buckets of log scale: small, in order, and never far off."""

from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.telemetry.v1.traffic_pb2 import Percentiles
from mlxmesh_gateway.forwarding.durations import bucket_of, middle_us, percentiles

DAY_US = 86_400_000_000
durations = st.integers(min_value=0, max_value=DAY_US)


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
    found = percentiles(counts)
    assert (found.count, found.p50_ms, found.p90_ms) == (100, 0.01, 0.01)
    assert found.p99_ms == 0.02


def test_of_nothing_all_is_zero() -> None:
    assert percentiles({}) == Percentiles()


@given(st.lists(durations, min_size=1))
def test_percentiles_never_fall(all_us: list[int]) -> None:
    counts: dict[int, int] = {}
    for each in all_us:
        counts[bucket_of(each)] = counts.get(bucket_of(each), 0) + 1
    found = percentiles(counts)
    assert found.p50_ms <= found.p90_ms <= found.p99_ms <= max(all_us) / 1000 * (1 + 1 / 31)
