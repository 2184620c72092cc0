"""Confidence sequences: against ville, against brute force, and at their ends."""

import math

import numpy as np
import pytest
import ville
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.experiments import sequences
from mlxmesh_model.experiments.moments import Summary
from mlxmesh_model.experiments.sequences import MIN_SUBJECTS, Share

ALPHA = 0.05


def _summary(values):
    return Summary(
        len(values), len(values), values.mean(), values.std(ddof=1) / math.sqrt(len(values))
    )


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.1])
def test_intervals_of_means_are_those_of_ville(alpha):
    values = np.random.default_rng(1).lognormal(5, 0.8, 3000)
    theirs = ville.AsymptoticCS(
        alpha=alpha, t_opt=sequences.OPTIMAL_SUBJECTS, min_samples=MIN_SUBJECTS, intersect=False
    ).fit(values)
    for count in (MIN_SUBJECTS, 500, 3000):
        ours = sequences.mean(_summary(values[:count]), alpha)
        assert ours.mean == pytest.approx(theirs.estimate_[count - 1])
        # Both choose the mixture for the same time, ville by search and we by a closed form.
        assert ours.upper - ours.lower == pytest.approx(
            theirs.upper_[count - 1] - theirs.lower_[count - 1], rel=0.02
        )


def test_intervals_of_differences_are_near_those_of_ville():
    rng = np.random.default_rng(2)
    treated = rng.random(6000) < 0.5
    values = rng.lognormal(5, 0.8, 6000) * np.where(treated, 1.2, 1.0)
    theirs = ville.AsymptoticABTest(alpha=ALPHA, t_opt=sequences.OPTIMAL_SUBJECTS)
    theirs.fit(values, treated.astype(float))
    ours = sequences.mean_difference(_summary(values[treated]), _summary(values[~treated]), ALPHA)
    lower, upper = theirs.interval()
    assert ours.excludes_zero
    assert lower > 0
    # They estimate the same effect from other sums.
    assert ours.mean == pytest.approx(theirs.estimate_[-1], rel=0.1)
    assert ours.upper - ours.lower == pytest.approx(upper - lower, rel=0.15)


@pytest.mark.parametrize("share", [0.0, 0.003, 0.1, 0.5, 1.0])
def test_intervals_of_shares_are_those_of_ville(share):
    values = (np.random.default_rng(3).random(2000) < share).astype(float)
    theirs = ville.BernoulliCS(alpha=ALPHA, prior=(0.5, 0.5), intersect=False).fit(values)
    for count in (1, 10, 300, 2000):
        ours = sequences.share(Share(values[:count].sum(), count), ALPHA)
        assert ours.lower == pytest.approx(theirs.lower_[count - 1], abs=1e-6)
        assert ours.upper == pytest.approx(theirs.upper_[count - 1], abs=1e-6)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_difference_of_shares_has_every_pair_that_is_not_refuted(first, second, data):
    arm = Share(data.draw(st.integers(0, first)), first)
    control = Share(data.draw(st.integers(0, second)), second)
    interval = sequences.share_difference(arm, control, ALPHA)
    grid = np.linspace(0.001, 0.999, 60)
    ours = np.array([arm.evidence(share) for share in grid])
    others = np.array([control.evidence(share) for share in grid])
    kept = ours[:, None] + others[None, :] <= -math.log(ALPHA)
    differences = (grid[:, None] - grid[None, :])[kept]
    step = grid[1] - grid[0]
    assert interval.lower <= differences.min() + 1e-9
    assert interval.upper >= differences.max() - 1e-9
    assert -1 <= interval.lower <= interval.mean <= interval.upper <= 1
    # Not wider than the grid is coarse: two shares are rounded, and at the ends it has none.
    assert interval.lower >= differences.min() - 2 * step - 0.002
    assert interval.upper <= differences.max() + 2 * step + 0.002


def test_few_subjects_give_no_finite_interval():
    few = Summary(10_000, MIN_SUBJECTS - 1, 100.0, 1.0)
    many = Summary(10_000, 5000, 100.0, 1.0)
    assert sequences.mean(few, ALPHA).upper == math.inf
    assert not sequences.mean_difference(few, many, ALPHA).excludes_zero
    assert math.isfinite(sequences.mean(many, ALPHA).upper)


def test_no_errors_at_all_still_have_an_interval():
    arm = sequences.share_of(Summary(500, 500, 0.0, 0.0))
    interval = sequences.share(arm, ALPHA)
    assert interval.lower == 0
    assert 0.005 < interval.upper < 0.02


def test_shares_of_alike_requests_count_as_fewer():
    # 100 subjects with 10 requests each, all of one kind: as much as 100 requests.
    error = math.sqrt(0.2 * 0.8 / 100)
    assert sequences.share_of(Summary(1000, 100, 0.2, error)).values == pytest.approx(100)
    assert sequences.share_of(Summary(1000, 1000, 0.2, error / 10)).values == 1000


def test_equal_values_have_intervals_without_width():
    same = Summary(1000, 1000, 7.0, 0.0)
    interval = sequences.mean_difference(same, same, ALPHA)
    assert (interval.lower, interval.upper) == (0, 0)
    assert not interval.excludes_zero
