"""Long prompts beside decode: within the slowdown, and never starved, at any step time."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.long_prompt_budget import LongPromptBudget


def run(
    subject: LongPromptBudget, steps: int, *, decode_s: float, pass_s: float, token_s: float
) -> list[tuple[int, float]]:
    """The tokens and the duration of each step."""
    found: list[tuple[int, float]] = []
    for _ in range(steps):
        tokens = subject.next_tokens()
        step_s = decode_s + (pass_s + token_s * tokens if tokens else 0)
        subject.record(step_s, tokens)
        found.append((tokens, step_s))
    return found


def budget(slowdown: float = 1.7, max_tokens: int = 512) -> LongPromptBudget:
    return LongPromptBudget(slowdown=slowdown, max_tokens=max_tokens)


@pytest.mark.parametrize("decode_s", [0.002, 0.02, 0.2, 0.5])
@pytest.mark.parametrize("pass_share", [0.0, 0.2, 0.5, 1.0])
def test_the_mean_step_is_within_the_slowdown_and_uses_it(
    decode_s: float, pass_share: float
) -> None:
    found = run(
        budget(), 600, decode_s=decode_s, pass_s=decode_s * pass_share, token_s=decode_s / 50
    )[200:]
    mean_s = sum(step_s for _, step_s in found) / len(found)
    assert 1.5 * decode_s <= mean_s <= 1.72 * decode_s


@pytest.mark.parametrize("pass_share", [0.0, 0.2, 0.3])
def test_where_a_slice_fits_every_step_none_exceeds_the_slowdown(pass_share: float) -> None:
    found = run(budget(), 600, decode_s=0.2, pass_s=0.2 * pass_share, token_s=0.004)[200:]
    assert max(step_s for _, step_s in found) <= 1.75 * 0.2


def test_a_slice_never_mostly_pays_for_its_pass() -> None:
    found = run(budget(), 600, decode_s=0.5, pass_s=0.5, token_s=0.01)[200:]
    sizes = [tokens for tokens, _ in found if tokens]
    assert min(sizes) >= 40
    assert max(step_s for _, step_s in found) <= 3 * 0.5 + 0.06


def test_a_budget_that_is_too_large_is_cut_at_once_and_grows_slowly() -> None:
    subject = budget(slowdown=3)
    subject.record(0.010, 0)
    subject.record(0.090, 40)
    assert next_slice(subject) == 10
    subject.record(0.015, 10)
    assert next_slice(subject) == 11


def test_the_setting_bounds_a_slice() -> None:
    found = run(budget(max_tokens=10), 100, decode_s=0.2, pass_s=0, token_s=0.0001)
    assert max(tokens for tokens, _ in found) == 10


def test_without_a_baseline_the_budget_is_small() -> None:
    subject = budget()
    subject.record(5.0, 16)
    assert next_slice(subject) == 16


@given(st.lists(st.floats(0, 1000), min_size=200, max_size=300), st.floats(1.01, 1000))
def test_whatever_the_steps_take_a_long_prompt_advances(
    durations: list[float], slowdown: float
) -> None:
    subject = budget(slowdown)
    advanced = [-1]
    for step, step_s in enumerate(durations):
        tokens = subject.next_tokens()
        assert 0 <= tokens <= 512
        subject.record(step_s, tokens)
        if tokens:
            advanced.append(step)
    assert max(after - before for before, after in pairwise(advanced)) <= 8 + 4


def next_slice(subject: LongPromptBudget) -> int:
    """The next budget that is not zero."""
    return next(tokens for _ in range(20) if (tokens := subject.next_tokens()))
