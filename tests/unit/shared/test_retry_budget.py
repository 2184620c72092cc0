"""Retries are bounded by the calls that were made and by time."""

import pytest

from mlxmesh_shared.resilience.retries import FLOOR_PER_S, MAX_TOKENS, PER_CALL, RetryBudget


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def spend(budget: RetryBudget) -> int:
    taken = 0
    while budget.try_spend():
        taken += 1
    return taken


def empty_budget() -> tuple[RetryBudget, Clock]:
    clock = Clock()
    budget = RetryBudget(now_s=clock)
    assert spend(budget) == MAX_TOKENS
    return budget, clock


def test_a_fifth_of_the_calls_may_be_tried_again() -> None:
    budget, _ = empty_budget()
    for _ in range(50):
        budget.on_call()
    assert spend(budget) == pytest.approx(50 * PER_CALL, abs=1)


def test_a_quiet_process_may_retry_at_the_floor() -> None:
    budget, clock = empty_budget()
    clock.now_s += 2.0
    assert spend(budget) == 2 * FLOOR_PER_S


def test_what_was_not_used_is_not_saved_for_ever() -> None:
    budget, clock = empty_budget()
    clock.now_s += 3600
    assert spend(budget) == MAX_TOKENS
