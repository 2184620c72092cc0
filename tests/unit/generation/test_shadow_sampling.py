"""Which requests a shadow repeats."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_generation.domain.routing import Shadow
from mlxmesh_generation.shadowing.sampling import takes

REQUESTS = 40_000


def shadow(percent: float, shadow_id: str = "s-1") -> Shadow:
    return Shadow(shadow_id, 0, 2, percent)


@pytest.mark.parametrize("percent", [0.1, 2.5, 10, 50, 99.5])
def test_the_part_is_within_the_binomial_bound(percent: float) -> None:
    taken = sum(takes(shadow(percent), f"request-{number}") for number in range(REQUESTS))
    part = percent / 100
    # Five standard deviations.
    assert abs(taken - REQUESTS * part) < 5 * math.sqrt(REQUESTS * part * (1 - part))


@given(st.text(max_size=128))
def test_100_percent_takes_every_request(request_id: str) -> None:
    assert takes(shadow(100), request_id)


@given(st.text(max_size=128), st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_larger_part_contains_the_smaller_one(request_id: str, one: float, other: float) -> None:
    smaller, larger = sorted((one, other))
    assert takes(shadow(larger), request_id) or not takes(shadow(smaller), request_id)


def test_two_shadows_take_samples_of_their_own() -> None:
    ids = [f"request-{number}" for number in range(REQUESTS)]
    both = sum(takes(shadow(10), one) and takes(shadow(10, "s-2"), one) for one in ids)
    assert abs(both - REQUESTS / 100) < 5 * math.sqrt(REQUESTS / 100)
