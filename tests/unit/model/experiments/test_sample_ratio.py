"""Whether subjects fit the weights."""

import numpy as np
import pytest

from mlxmesh_model.experiments import sample_ratio


def test_without_subjects_nothing_speaks_against_the_weights():
    assert sample_ratio.p_value(sample_ratio.evidence([0, 0], [50, 50])) == 1


def test_a_wrong_share_is_found_and_a_right_one_is_not():
    assert sample_ratio.p_value(sample_ratio.evidence([5300, 4700], [50, 50])) < 1e-5
    assert sample_ratio.p_value(sample_ratio.evidence([5030, 4970], [50, 50])) == 1
    assert sample_ratio.p_value(sample_ratio.evidence([900, 9100], [10, 90])) < 0.05
    assert sample_ratio.p_value(sample_ratio.evidence([3400, 3300, 3300], [34, 33, 33])) == 1


def test_the_e_process_has_the_mean_one():
    # Each possible outcome of two subjects, by its probability under the weights.
    shares = {0: 0.3, 1: 0.7}
    total = 0.0
    for first in shares:
        for second in shares:
            counts = [[first, second].count(arm) for arm in shares]
            total += (
                shares[first] * shares[second] * np.exp(sample_ratio.evidence(counts, [30, 70]))
            )
    assert total == pytest.approx(1)


def test_right_weights_are_seldom_doubted_however_often_one_looks():
    rng = np.random.default_rng(5)
    doubted = 0
    for _ in range(300):
        counts = np.cumsum(rng.multinomial(100, [0.2, 0.3, 0.5], size=50), axis=0)
        largest = max(sample_ratio.evidence(list(map(int, row)), [20, 30, 50]) for row in counts)
        doubted += sample_ratio.p_value(largest) < 0.05
    assert doubted <= 15
