"""Look-up, acceptance, costs and lengths of proposals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_engine.speculation.acceptance import Acceptance
from mlxmesh_engine.speculation.lengths import (
    MAX_PROPOSED,
    NO_OFFER,
    Offer,
    choose_lengths,
    expected_tokens,
    worth_proposing,
)
from mlxmesh_engine.speculation.ngram import MAX_MATCH, NgramIndex
from mlxmesh_engine.speculation.step_cost import StepCost, StepCosts

TOKENS = st.lists(st.integers(0, 4), max_size=80)
PLAIN_S = 0.01


def longest_match(tokens: list[int]) -> int:
    """The length of the longest end, up to MAX_MATCH, that stands earlier too; 0 below two."""
    for length in range(MAX_MATCH, 1, -1):
        end = tokens[-length:]
        starts = range(len(tokens) - length)
        if len(end) == length and any(tokens[at : at + length] == end for at in starts):
            return length
    return 0


@given(prompt=TOKENS, output=TOKENS, most=st.integers(1, 9))
def test_a_match_is_what_followed_an_equal_end(
    prompt: list[int], output: list[int], most: int
) -> None:
    index = NgramIndex(prompt)
    for token in output:
        index.append(token)
    tokens = [*prompt, *output]
    match = index.match(most)
    if match is None:
        assert not longest_match(tokens)
        return
    # Only so many earlier places are looked at, so a longer one may be missed.
    assert 2 <= match.length <= longest_match(tokens)
    assert len(match.tokens) == most
    end = tokens[-match.length :]
    continuations = (
        (tokens[at + match.length :] + list(match.tokens))[:most]
        for at in range(len(tokens) - match.length)
        if tokens[at : at + match.length] == end
    )
    assert list(match.tokens) in list(continuations)


@given(prompt=TOKENS, output=TOKENS)
def test_tokens_one_by_one_or_at_once_give_the_same_match(
    prompt: list[int], output: list[int]
) -> None:
    grown = NgramIndex(prompt)
    for token in output:
        grown.append(token)
    assert grown.match(6) == NgramIndex([*prompt, *output]).match(6)


def test_the_latest_of_equal_matches_counts() -> None:
    assert NgramIndex([1, 2, 8, 1, 2, 9, 1, 2]).match(1).tokens == (9,)  # pyright: ignore[reportOptionalMemberAccess]


def test_a_period_is_continued_beyond_the_end() -> None:
    match = NgramIndex([5, 6, 7, 5, 6, 7, 5, 6]).match(7)
    assert match is not None
    assert match.tokens == (7, 5, 6, 7, 5, 6, 7)


def test_an_index_is_bounded() -> None:
    index = NgramIndex(np.arange(200_000).tolist())
    assert len(index) == 2**16
    for token in range(1000):
        index.append(token % 7)
    assert len(index) <= 2**16
    assert index.nbytes <= 2**20
    match = index.match(3)
    assert match is not None
    assert match.length == MAX_MATCH


def test_acceptance_moves_from_the_initial_value_to_what_is_recorded() -> None:
    engine = Acceptance({4: 0.5})
    row = Acceptance(engine)
    assert row.probability(4) == 0.5
    for _ in range(50):
        row.record(4, proposed=4, accepted=4)
    assert row.probability(4) > 0.9
    other = Acceptance(engine)
    assert 0.8 < other.probability(4) <= row.probability(4)
    for _ in range(50):
        other.record(4, proposed=4, accepted=0)
    assert other.probability(4) < 0.2
    assert row.probability(4) > 0.8


def test_a_kind_that_did_not_pay_is_tried_again() -> None:
    engine = Acceptance({2: 0.4})
    row = Acceptance(engine)
    for _ in range(30):
        row.record(2, proposed=2, accepted=0)
    low = row.probability(2)
    for _ in range(5000):
        row.fade(2)
    assert low < 0.15 < 0.3 < row.probability(2) <= 0.4


def cost_of(rows: int, share: float, *, fixed_s: float = 0.0) -> StepCost:
    """Measured: a token costs `share` of a plain step's cost for each row."""
    cost = StepCost()
    for number in range(60):
        cost.record_plain(PLAIN_S)
        proposed = rows * (1 + number % 4)
        seconds = PLAIN_S * (1 + share * proposed / rows) + fixed_s
        cost.record_verified(seconds, rows=rows, proposed=proposed, accepted=proposed)
    return cost


def test_nothing_is_proposed_before_a_plain_step_was_measured() -> None:
    assert choose_lengths([Offer(0.9, 8)], StepCost()) == [0]


@pytest.mark.parametrize("rows", [1, 8, 32])
def test_a_batch_whose_time_is_proportional_to_its_tokens_proposes_nothing(rows: int) -> None:
    cost = cost_of(rows, share=1.0)
    assert choose_lengths([Offer(0.95, 8)] * rows, cost) == [0] * rows
    assert not worth_proposing(0.95, rows, cost)


def test_cheap_tokens_are_proposed_as_far_as_they_are_likely() -> None:
    cost = cost_of(1, share=0.1)
    [sure] = choose_lengths([Offer(0.95, 99)], cost)
    [likely] = choose_lengths([Offer(0.6, 99)], cost)
    assert sure == MAX_PROPOSED
    assert 0 < likely < sure
    assert choose_lengths([Offer(0.05, 99)], cost) == [0]
    assert choose_lengths([Offer(0.95, 3)], cost) == [3]


def test_rows_without_a_proposal_are_hardly_slowed() -> None:
    cost = cost_of(4, share=0.4)
    lengths = choose_lengths([Offer(0.98, 12), NO_OFFER, NO_OFFER, NO_OFFER], cost)
    assert cost.slowdown(sum(lengths)) <= 1.15
    assert lengths[1:] == [0, 0, 0]


def test_a_large_fixed_cost_needs_more_rows_that_gain() -> None:
    cost = cost_of(8, share=0.1, fixed_s=PLAIN_S)
    assert choose_lengths([Offer(0.5, 12), *[NO_OFFER] * 7], cost) == [0] * 8
    assert all(choose_lengths([Offer(0.95, 12)] * 8, cost))


def pause_after_a_loss(cost: StepCost) -> int:
    """How many steps have no proposals after those that lose."""
    while cost.ready:
        cost.record_verified(2 * PLAIN_S, rows=1, proposed=4, accepted=0)
    steps = 0
    while not cost.ready:
        cost.record_plain(PLAIN_S)
        steps += 1
    return steps


def test_proposals_pause_after_a_loss_and_longer_after_the_next() -> None:
    cost = StepCost()
    cost.record_plain(PLAIN_S)
    assert [pause_after_a_loss(cost) for _ in range(2)] == [128, 256]


def test_a_pause_is_long_beside_the_preparation_that_was_lost() -> None:
    cost = StepCost()
    cost.record_plain(PLAIN_S)
    for _ in range(10):
        cost.record_preparation(3 * PLAIN_S)
    assert cost.ready
    assert pause_after_a_loss(cost) == 32 * 20
    assert pause_after_a_loss(cost) == 256


def test_a_plain_step_is_measured_now_and_then() -> None:
    cost = StepCost()
    cost.record_plain(PLAIN_S)
    steps = 0
    while cost.ready:
        cost.record_verified(PLAIN_S, rows=1, proposed=4, accepted=4)
        steps += 1
    assert steps == 64
    cost.record_plain(PLAIN_S)
    assert cost.ready


def test_costs_of_similar_numbers_of_rows_are_measured_together() -> None:
    costs = StepCosts()
    assert costs.of(31) is costs.of(32)
    assert costs.of(1) is not costs.of(2)


@given(probability=st.floats(0, 1), length=st.integers(0, 12))
def test_expected_tokens_are_the_sum_of_the_powers(probability: float, length: int) -> None:
    powers = sum(probability**at for at in range(1, length + 1))
    assert expected_tokens(probability, length) == pytest.approx(powers)
