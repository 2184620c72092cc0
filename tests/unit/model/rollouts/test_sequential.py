"""Bounds of rates that hold however often one looks."""

import math
import random

import pytest

from mlxmesh_model.rollouts.sequential import ALPHA, is_above, lower_bound, upper_bound


def _ever_above(rng: random.Random, rate: float, bound: float, trials: int) -> int:
    """After how many trials the rate was held to be above the bound; 0 for never."""
    hits = 0
    for trial in range(1, trials + 1):
        hits += rng.random() < rate
        if hits and is_above(hits, trial, bound):
            return trial
    return 0


@pytest.mark.parametrize("bound", [0.01, 0.05, 0.3])
def test_a_rate_at_its_bound_is_rarely_held_to_be_above_it(bound: float) -> None:
    rng = random.Random(1)
    wrong = sum(_ever_above(rng, bound, bound, 600) > 0 for _ in range(400))
    assert wrong <= 400 * ALPHA + 3 * math.sqrt(400 * ALPHA)


def test_five_percent_is_found_to_be_above_one_percent_within_a_step() -> None:
    """At 50 requests a second, 300 of them reach 1 % in a hold of ten minutes; what is not certain
    by then is judged at its end.
    """
    rng = random.Random(2)
    found = sorted(_ever_above(rng, 0.05, 0.01, 600) or 601 for _ in range(400))
    assert found[200] < 150
    assert found[int(400 * 0.8)] < 300


def test_a_bound_of_zero_allows_no_hit() -> None:
    assert not is_above(0, 1000, 0)
    assert is_above(1, 1000, 0)


def test_a_bound_of_one_is_never_exceeded() -> None:
    assert not is_above(1000, 1000, 1)


def test_without_a_hit_no_rate_is_above_anything() -> None:
    assert not any(is_above(0, trials, 0.01) for trials in (0, 1, 10_000))


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (1, 20), (50, 1000), (999, 1000), (7, 7)])
def test_bounds_enclose_what_was_seen(hits: int, trials: int) -> None:
    low, high = lower_bound(hits, trials), upper_bound(hits, trials)
    assert 0 <= low <= hits / trials <= high <= 1
    assert low < high


def test_bounds_close_in() -> None:
    assert lower_bound(500, 10_000) > lower_bound(50, 1000) > lower_bound(5, 100)
    assert upper_bound(500, 10_000) < upper_bound(50, 1000) < upper_bound(5, 100)
    assert upper_bound(0, 0) == 1


def test_bounds_cover_the_rate_at_all_times() -> None:
    rng, missed = random.Random(3), 0
    for _ in range(200):
        hits = 0
        for trial in range(1, 201):
            hits += rng.random() < 0.1
            if trial % 20 == 0 and not (
                lower_bound(hits, trial) <= 0.1 <= upper_bound(hits, trial)
            ):
                missed += 1
                break
    assert missed <= 2 * 200 * ALPHA + 5
