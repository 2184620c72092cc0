"""Fixed and proportional cost, from the durations of steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.linear_cost import LinearCost


def cost(*steps: tuple[float, int]) -> LinearCost:
    subject = LinearCost()
    for seconds, tokens in steps:
        subject.record(seconds, tokens)
    return subject


def test_fixed_and_proportional_cost_are_separated() -> None:
    subject = cost(*((0.7 + 0.02 * tokens, tokens) for tokens in (512, 100, 37, 256)))
    assert subject.fixed_s == pytest.approx(0.7)
    assert subject.per_token_s == pytest.approx(0.02)
    assert subject.break_even_tokens == pytest.approx(35)
    assert subject.tokens_within(2.7) == pytest.approx(100)
    assert subject.seconds(100) == pytest.approx(2.7)


def test_with_one_size_all_cost_is_proportional() -> None:
    subject = cost((1.0, 100), (1.0, 100), (1.0, 100))
    assert (subject.fixed_s, subject.break_even_tokens) == (0, 0)
    assert subject.tokens_within(0.5) == pytest.approx(50)


def test_with_one_size_the_fixed_cost_is_at_least_that_of_a_step_without_tokens() -> None:
    subject = cost((1.0, 100), (1.0, 100))
    subject.record_fixed(0.4)
    assert subject.fixed_s == pytest.approx(0.4)
    assert subject.per_token_s == pytest.approx(0.006)


def test_the_fixed_cost_that_was_separated_stays_while_sizes_are_alike() -> None:
    subject = cost((0.9, 20), (1.5, 50), *[(1.5, 50)] * 200)
    assert subject.fixed_s == pytest.approx(0.5, rel=0.05)
    assert subject.per_token_s == pytest.approx(0.02, rel=0.05)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 4096)), min_size=1), st.floats(0, 100))
def test_whatever_was_measured_the_costs_are_usable(
    steps: list[tuple[float, int]], fixed_s: float
) -> None:
    subject = cost(*steps)
    subject.record_fixed(fixed_s)
    assert subject.fixed_s >= 0
    assert subject.per_token_s > 0
    assert subject.break_even_tokens >= 0
