"""How many prompt tokens a step may prefill, for step times from 1 ms to a minute."""

import pytest

from mlxmesh_engine.scheduling.prefill_budget import LinearCost, LongPromptBudget, PrefillBudget


def settled_tokens(
    subject: PrefillBudget, *, fixed_s: float, per_token_s: float, decoding: bool = True
) -> int:
    """The budget that steps of this cost converge to."""
    for _ in range(40):
        tokens = subject.tokens(decoding=decoding)
        subject.record(fixed_s + tokens * per_token_s, tokens, decoding=decoding)
    return subject.tokens(decoding=decoding)


@pytest.mark.parametrize(("fixed_s", "per_token_s"), [(0.002, 0.00002), (0.03, 0.001)])
def test_the_budget_is_the_setting_while_steps_are_fast(fixed_s: float, per_token_s: float) -> None:
    assert settled_tokens(PrefillBudget(512), fixed_s=fixed_s, per_token_s=per_token_s) == 512


def test_slow_steps_are_limited_to_a_second() -> None:
    tokens = settled_tokens(PrefillBudget(512), fixed_s=0.1, per_token_s=0.01)
    assert 75 <= tokens <= 100


@pytest.mark.parametrize("fixed_s", [0.7, 2.0, 20.0])
def test_a_step_is_never_mostly_fixed_cost(fixed_s: float) -> None:
    tokens = settled_tokens(PrefillBudget(2048), fixed_s=fixed_s, per_token_s=0.02)
    assert tokens >= 0.7 * fixed_s / 0.02


def test_steps_without_decode_may_be_longer() -> None:
    prefill_only = settled_tokens(PrefillBudget(512), fixed_s=0.7, per_token_s=0.02, decoding=False)
    with_decode = settled_tokens(PrefillBudget(512), fixed_s=0.7, per_token_s=0.02, decoding=True)
    assert 190 <= prefill_only <= 230
    assert with_decode <= 40


def test_fast_steps_raise_the_budget_to_the_setting() -> None:
    subject = PrefillBudget(100)
    assert settled_tokens(subject, fixed_s=0.0, per_token_s=0.05) <= 25
    assert settled_tokens(subject, fixed_s=0.0, per_token_s=0.001) == 100


@pytest.mark.parametrize(("setting", "least"), [(512, 8), (3, 3)])
def test_the_budget_is_never_zero_nor_above_a_small_setting(setting: int, least: int) -> None:
    tokens = settled_tokens(PrefillBudget(setting), fixed_s=0.0, per_token_s=60)
    assert tokens == least


def test_fixed_and_proportional_cost_are_separated() -> None:
    subject = LinearCost()
    for tokens in (512, 100, 37, 256):
        subject.record(0.7 + 0.02 * tokens, tokens)
    assert subject.fixed_s == pytest.approx(0.7)
    assert subject.per_token_s == pytest.approx(0.02)
    assert subject.break_even_tokens == pytest.approx(35)
    assert subject.tokens_within(2.7) == pytest.approx(100)


def test_with_one_size_all_cost_is_proportional() -> None:
    subject = LinearCost()
    for _ in range(3):
        subject.record(1.0, 100)
    assert (subject.fixed_s, subject.break_even_tokens) == (0, 0)
    assert subject.tokens_within(0.5) == pytest.approx(50)


def test_the_long_prompt_budget_is_cut_to_what_fits_and_grows_slowly() -> None:
    subject = LongPromptBudget(slowdown=3)
    subject.record(0.010, 0)
    subject.record(0.090, 40)
    assert settled(subject) == 10
    subject.record(0.015, 10)
    assert settled(subject) == 11


def test_the_long_prompt_budget_is_zero_only_for_probes() -> None:
    subject = LongPromptBudget(slowdown=1.5)
    for _ in range(20):
        subject.record(0.01, 0)
        subject.record(9.0, 100)
    budgets = [subject.next_tokens() for _ in range(300)]
    assert set(budgets) == {0, 4}
    assert budgets.count(0) <= 20


def test_without_a_baseline_the_long_prompt_budget_is_small() -> None:
    subject = LongPromptBudget(slowdown=2)
    subject.record(5.0, 16)
    assert settled(subject) == 16


def settled(subject: LongPromptBudget) -> int:
    """The budget after the first probe."""
    return max(subject.next_tokens() for _ in range(5))
