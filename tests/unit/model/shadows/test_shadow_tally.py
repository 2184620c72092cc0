"""What pairs add up to."""

import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from math import inf, isinf
from statistics import fmean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.shadows import rows
from mlxmesh_model.shadows.shadow import Batch, DropReason, Pair
from mlxmesh_model.shadows.tally import Metric, Paired, Tally, median_first_difference

PAIR = Pair(
    request_id="r",
    from_version=1,
    time=datetime(2026, 1, 1, tzinfo=UTC),
    equal=True,
    first_difference=3,
    edit_distance=0.0,
    primary_tokens=3,
    shadow_tokens=4,
    primary_ttft_ms=10.0,
    shadow_ttft_ms=12.0,
    primary_tokens_per_second=100.0,
    shadow_tokens_per_second=90.0,
)
values = st.floats(0, 1e6, allow_nan=False)


@given(st.lists(st.tuples(values, values), min_size=2, max_size=50))
def test_the_sums_are_those_of_the_differences(pairs: list[tuple[float, float]]) -> None:
    paired = Paired()
    for primary, shadow in pairs:
        paired = paired.add(primary, shadow)
    differences = [shadow - primary for primary, shadow in pairs]
    assert paired.difference == pytest.approx(fmean(differences), abs=1e-6)
    assert paired.primary_mean == pytest.approx(fmean(one for one, _ in pairs), abs=1e-6)
    assert paired.shadow_mean == pytest.approx(fmean(one for _, one in pairs), abs=1e-6)
    assert paired.squares / (len(pairs) - 1) == pytest.approx(variance(differences), abs=1e-3)


def test_large_values_that_are_nearly_equal_keep_their_variance() -> None:
    paired = Paired()
    for value in (1e9 + 1, 1e9 + 2, 1e9 + 3):
        paired = paired.add(0, value)
    assert paired.squares / 2 == pytest.approx(1)


def test_without_100_pairs_there_is_no_finite_interval() -> None:
    paired = Paired()
    for _ in range(99):
        paired = paired.add(1, 2)
    assert (paired.interval.lower, paired.interval.upper) == (-inf, inf)


def test_the_interval_holds_at_every_look() -> None:
    """Of 200 shadows, looked at after each pair, at most 5 % may ever miss the true difference."""
    missed = 0
    for seed in range(200):
        source, paired = random.Random(seed), Paired()
        for count in range(1, 1001):
            primary = source.lognormvariate(3, 0.5)
            paired = paired.add(primary, primary + source.gauss(2, 5))
            interval = paired.interval
            if count >= 100 and not interval.lower <= 2 <= interval.upper:
                missed += 1
                break
    assert missed <= 10


def test_a_difference_is_found_pair_by_pair() -> None:
    source, paired = random.Random(1), Paired()
    for _ in range(1000):
        # Requests differ by far more than the two answers to one of them.
        primary = source.uniform(10, 1000)
        paired = paired.add(primary, primary * 1.0 + 5 + source.gauss(0, 5))
    assert paired.interval.lower > 0


def test_pairs_and_drops_are_counted() -> None:
    other = replace(PAIR, equal=False, edit_distance=0.5)
    first = Batch("g", 1, [PAIR, other], {DropReason.NO_ROOM: 2})
    tally = Tally().add(first).add(Batch("g", 2, [], {DropReason.NO_ROOM: 1}))
    assert (tally.compared, tally.equal, tally.mean_edit_distance) == (2, 1, 0.25)
    assert tally.drops == {DropReason.NO_ROOM: 3}
    assert tally.paired[Metric.COMPLETION_TOKENS].difference == 1


def test_an_answer_without_a_token_has_no_time() -> None:
    silent = replace(PAIR, shadow_ttft_ms=0.0, shadow_tokens_per_second=0.0)
    tally = Tally().add(Batch("g", 1, [silent]))
    assert tally.paired.keys() == {Metric.COMPLETION_TOKENS}


def test_the_median_is_that_of_pairs_that_differ() -> None:
    pairs = [replace(PAIR, equal=False, first_difference=at) for at in (1, 2, 9)]
    assert median_first_difference([PAIR, *pairs]) == 2
    assert median_first_difference([PAIR]) == 0


def test_a_tally_is_stored_whole() -> None:
    tally = Tally().add(Batch("g", 1, [PAIR], {DropReason.FAILED: 1}))
    text = rows.tally_text(tally)
    assert not isinf(len(json.loads(text)))
    assert rows.to_tally(text) == tally
    assert rows.to_tally(rows.tally_text(Tally())) == Tally()
