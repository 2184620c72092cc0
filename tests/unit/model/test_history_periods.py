"""Outcomes as sums by version and period."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.history.periods import (
    DAY_S,
    HOUR_S,
    Amounts,
    PeriodKey,
    Resolution,
    Sums,
    TimeRange,
    by_day,
    by_hour,
    summed,
    whole_periods,
)
from mlxmesh_model.outcomes.outcome import Outcome, Status
from mlxmesh_shared.telemetry.histograms import of_durations_ms

NOON_S = 20_000 * DAY_S + 12 * HOUR_S


def outcome(end_s: float, version: int = 1, status: Status = Status.COMPLETED) -> Outcome:
    return Outcome(
        request_id="r",
        principal="p",
        model="pocket",
        version=version,
        status=status,
        end_time=datetime.fromtimestamp(end_s, UTC),
        prompt_tokens=5,
        cached_tokens=2,
        completion_tokens=7,
        ttft_ms=100.0,
        tpot_ms=10.0,
        device_ms=1.5,
        cost=0.25,
    )


def test_an_hour_has_the_outcomes_that_ended_in_it() -> None:
    ends = [NOON_S, NOON_S + 3599.999, NOON_S + 3600, NOON_S - 0.001]
    sums = by_hour(outcome(each) for each in ends)
    found = {(key.start_s - NOON_S) // HOUR_S: amounts.requests for key, amounts in sums.items()}
    assert found == {0: 2, 1: 1, -1: 1}


def test_amounts_add_up() -> None:
    statuses = [Status.COMPLETED, Status.FAILED, Status.REFUSED, Status.CANCELLED]
    [(key, amounts)] = by_hour(outcome(NOON_S, status=each) for each in statuses).items()
    assert key == PeriodKey("pocket", 1, HOUR_S, NOON_S)
    assert amounts == Amounts(
        requests=4,
        errors=1,
        refused=1,
        cancelled=1,
        prompt_tokens=20,
        cached_tokens=8,
        completion_tokens=28,
        device_us=6000,
        cost=1.0,
        ttft=of_durations_ms([100.0] * 4),
        tpot=of_durations_ms([10.0] * 4),
    )


def test_an_outcome_without_tokens_has_no_times() -> None:
    refused = Outcome(
        request_id="r",
        principal="",
        model="pocket",
        version=1,
        status=Status.REFUSED,
        end_time=datetime.fromtimestamp(NOON_S, UTC),
    )
    [amounts] = by_hour([refused]).values()
    assert not amounts.ttft
    assert not amounts.tpot


ends = st.lists(st.tuples(st.integers(0, 5 * DAY_S), st.integers(1, 2)), max_size=30)


def requests(sums: Sums) -> int:
    return sum(each.requests for each in sums.values())


@given(ends)
def test_rolling_up_loses_nothing_and_changes_no_sum_by_day(found: list[tuple[int, int]]) -> None:
    during = TimeRange(0, 6 * DAY_S)
    hours = by_hour(outcome(end_s, version) for end_s, version in found)
    days = by_day(hours)
    assert requests(hours) == requests(days) == len(found)
    assert all(key.length_s == DAY_S and key.start_s % DAY_S == 0 for key in days)
    for resolution in (Resolution.DAY, Resolution.TOTAL):
        assert summed(hours, resolution, during) == summed(days, resolution, during)


def test_periods_are_sorted_by_start_and_version() -> None:
    hours = by_hour([outcome(NOON_S + HOUR_S), outcome(NOON_S, 2), outcome(NOON_S, 1)])
    found = summed(hours, Resolution.HOUR, TimeRange(NOON_S, NOON_S + DAY_S))
    assert [(key.start_s - NOON_S, key.version) for key, _ in found] == [(0, 1), (0, 2), (3600, 1)]


def test_the_total_is_one_period_per_version() -> None:
    hours = by_hour([outcome(NOON_S), outcome(NOON_S + DAY_S), outcome(NOON_S, 2)])
    during = TimeRange(NOON_S, NOON_S + 2 * DAY_S)
    found = summed(hours, Resolution.TOTAL, during)
    assert [(key.version, key.start_s, key.end_s, each.requests) for key, each in found] == [
        (1, NOON_S, NOON_S + 2 * DAY_S, 2),
        (2, NOON_S, NOON_S + 2 * DAY_S, 1),
    ]


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (Resolution.HOUR, TimeRange(NOON_S, NOON_S + 2 * HOUR_S)),
        (Resolution.TOTAL, TimeRange(NOON_S, NOON_S + 2 * HOUR_S)),
        (Resolution.DAY, TimeRange(NOON_S - 12 * HOUR_S, NOON_S + 12 * HOUR_S)),
    ],
)
def test_a_range_gets_the_periods_that_it_touches(
    resolution: Resolution, expected: TimeRange
) -> None:
    assert whole_periods(TimeRange(NOON_S + 60, NOON_S + 3601), resolution) == expected
