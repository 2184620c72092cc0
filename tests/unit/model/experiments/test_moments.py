"""Means and standard errors over subjects, against NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.experiments.moments import Cluster, Moments

_REQUESTS = st.lists(st.tuples(st.integers(0, 5), st.floats(-1000, 1000)), min_size=2, max_size=40)


def _added(requests):
    moments, clusters = Moments(), {}
    for subject, value in requests:
        moments, clusters[subject] = moments.add(value, clusters.get(subject, Cluster()))
    return moments


@given(_REQUESTS)
def test_sums_follow_from_the_values_alone(requests):
    moments = _added(requests)
    values = [value for _, value in requests]
    assert moments.count == len(values)
    assert moments.subjects == len({subject for subject, _ in requests})
    assert moments.summary(5.0).mean == pytest.approx(5 + np.mean(values), abs=1e-9)
    assert moments.variance == pytest.approx(np.var(values, ddof=1), rel=1e-6, abs=1e-6)


@given(_REQUESTS)
def test_the_error_is_that_of_the_ratio_of_totals_to_counts(requests):
    by_subject = {}
    for subject, value in requests:
        by_subject.setdefault(subject, []).append(value)
    mean = np.mean([value for _, value in requests])
    residuals = [sum(values) - mean * len(values) for values in by_subject.values()]
    number = len(by_subject)
    few = number / (number - 1) if number > 1 else 1
    expected = math.sqrt(few * sum(r * r for r in residuals)) / len(requests)
    assert _added(requests).summary(0.0).error == pytest.approx(expected, rel=1e-5, abs=1e-3)


def test_one_request_per_subject_has_the_usual_standard_error():
    values = np.random.default_rng(3).lognormal(5, 1, 500)
    error = _added(enumerate(values)).summary(0.0).error
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(500))


def test_repeated_requests_of_alike_subjects_are_no_more_than_one_each():
    values = np.random.default_rng(4).normal(100, 10, 200)
    once = _added(enumerate(values)).summary(0.0).error
    repeated = _added([each for each in enumerate(values) for _ in range(10)]).summary(0.0)
    assert repeated.count == 2000
    assert repeated.error == pytest.approx(once)


def test_stored_moments_are_the_same():
    moments = _added([(1, 2.0), (1, 3.5), (2, 1 / 3)])
    assert Moments.of(moments.values()) == moments
