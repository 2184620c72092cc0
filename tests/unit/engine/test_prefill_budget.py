"""How many prompt tokens a step may prefill, for step times from 1 ms to a minute."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.scheduling.prefill_budget import Backlog, PrefillBudget


def settled_tokens(
    subject: PrefillBudget, *, fixed_s: float, per_token_s: float, decoding: bool = True
) -> int:
    """The budget that steps of this cost converge to."""
    backlog = Backlog(1, 4000, decoding=int(decoding))
    for _ in range(40):
        tokens = subject.tokens(backlog)
        subject.record(fixed_s + tokens * per_token_s, tokens, decoding=decoding)
    return subject.tokens(backlog)


@pytest.mark.parametrize(("fixed_s", "per_token_s"), [(0.002, 0.00002), (0.03, 0.001)])
def test_the_budget_is_the_setting_while_steps_are_fast(fixed_s: float, per_token_s: float) -> None:
    assert settled_tokens(PrefillBudget(512), fixed_s=fixed_s, per_token_s=per_token_s) == 512


def test_slow_steps_are_limited_to_a_second() -> None:
    tokens = settled_tokens(PrefillBudget(512), fixed_s=0.1, per_token_s=0.01)
    assert 75 <= tokens <= 100


@pytest.mark.parametrize("fixed_s", [0.7, 2.0, 20.0])
def test_a_step_is_never_mostly_fixed_cost(fixed_s: float) -> None:
    tokens = settled_tokens(PrefillBudget(2048), fixed_s=fixed_s, per_token_s=0.02)
    assert tokens >= 1.4 * fixed_s / 0.02


def test_steps_without_decode_may_be_longer() -> None:
    prefill_only = settled_tokens(PrefillBudget(512), fixed_s=0.7, per_token_s=0.02, decoding=False)
    with_decode = settled_tokens(PrefillBudget(512), fixed_s=0.7, per_token_s=0.02, decoding=True)
    assert 190 <= prefill_only <= 230
    assert 60 <= with_decode <= 75


def test_fast_steps_raise_the_budget_to_the_setting() -> None:
    subject = PrefillBudget(100)
    assert settled_tokens(subject, fixed_s=0.0, per_token_s=0.05) <= 25
    assert settled_tokens(subject, fixed_s=0.0, per_token_s=0.001) == 100


@pytest.mark.parametrize(("setting", "least"), [(512, 8), (3, 3)])
def test_the_budget_is_never_zero_nor_above_a_small_setting(setting: int, least: int) -> None:
    tokens = settled_tokens(PrefillBudget(setting), fixed_s=0.0, per_token_s=60)
    assert tokens == least


def measured(*, fixed_s: float, per_token_s: float, max_tokens: int = 100_000) -> PrefillBudget:
    """A budget that knows the cost of its steps."""
    subject = PrefillBudget(max_tokens)
    for tokens in (100, 20, 300):
        subject.record(fixed_s + tokens * per_token_s, tokens, decoding=True)
        subject.record(tokens * per_token_s, tokens, decoding=False)
    return subject


def test_of_many_waiting_prompts_a_step_prefills_some() -> None:
    subject = measured(fixed_s=0.01, per_token_s=0.0001)
    assert subject.tokens(Backlog(32, 2016, decoding=0)) == pytest.approx(1270, rel=0.01)
    assert subject.tokens(Backlog(32, 2016, decoding=8)) == pytest.approx(1270, rel=0.01)


def test_few_waiting_tokens_are_prefilled_in_one_step() -> None:
    subject = measured(fixed_s=0.01, per_token_s=0.0001)
    assert subject.tokens(Backlog(8, 504, decoding=0)) >= 504


def test_one_prompt_is_not_cut_for_short_times_to_the_first_token() -> None:
    subject = measured(fixed_s=0.01, per_token_s=0.0001)
    assert subject.tokens(Backlog(1, 4000, decoding=0)) >= 4000


def test_the_more_prompts_wait_for_a_decoding_one_the_longer_steps_may_be() -> None:
    subject = measured(fixed_s=1.0, per_token_s=0.01)
    tokens = [
        subject.tokens(Backlog(prompts, 10**6, decoding=8)) for prompts in (1, 16, 24, 32, 400)
    ]
    assert tokens == pytest.approx([200, 200, 300, 400, 400], rel=0.01)


@pytest.mark.parametrize("fixed_s", [0.002, 0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("rate", [50, 500, 5000])
def test_the_batches_of_a_burst_spend_at_most_half_as_long_on_the_fixed_cost_as_on_prefill(
    fixed_s: float, rate: int
) -> None:
    subject = measured(fixed_s=fixed_s, per_token_s=1 / rate)
    left, batches = 2016, 0
    while left > 0:
        left -= subject.tokens(Backlog(2, left, decoding=1))
        batches += 1
    assert batches * fixed_s <= 0.5 * 2016 / rate + 2 * fixed_s


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.integers(0, 4096), st.booleans())),
    st.integers(1, 65_536),
    st.integers(1, 1000),
    st.integers(0, 1000),
)
def test_whatever_was_measured_a_step_prefills_something_within_the_setting(
    steps: list[tuple[float, int, bool]], setting: int, prompts: int, decoding: int
) -> None:
    subject = PrefillBudget(setting)
    for step_s, tokens, decodes in steps:
        subject.record(step_s, tokens, decoding=decodes)
    tokens = subject.tokens(Backlog(prompts, 64 * prompts, decoding=decoding))
    assert min(8, setting) <= tokens <= setting
