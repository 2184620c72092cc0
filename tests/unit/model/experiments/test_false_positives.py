"""A small simulation; `tests.bench.bench_experiments.py` is the whole one."""

import math

import numpy as np
import pytest

from tests.bench.bench_experiments import Traffic, first_found

LOOK = 100


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(spread=0.8),
        Traffic(spread=1.2, weight=0.1),
        Traffic(spread=0.5, requests_per_subject=8, alike=0.7),
    ],
)
def test_nothing_is_found_where_there_is_nothing(traffic):
    rng = np.random.default_rng(11)
    found = [first_found(rng, traffic, requests=5000, look=LOOK) for _ in range(100)]
    assert sum(map(math.isfinite, found)) <= 5


def test_an_effect_of_a_fifth_is_found_within_the_promised_subjects():
    rng = np.random.default_rng(12)
    traffic = Traffic(spread=0.8, effect=1.2)
    found = [first_found(rng, traffic, requests=4000, look=LOOK, metrics=8) for _ in range(60)]
    assert sum(map(math.isfinite, found)) >= 57
