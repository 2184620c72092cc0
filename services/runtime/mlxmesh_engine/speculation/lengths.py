"""Decides how many tokens to propose for each row of a batch. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlxmesh_engine.speculation.step_cost import StepCost

MAX_PROPOSED = 12
"""The most tokens proposed for a row in one step."""
# The expected gain must be clear: costs and probabilities are estimates.
_MIN_GAIN = 1.05
# How much a step may take longer for rows without proposals, which gain nothing from it.
_MAX_SLOWDOWN_OF_OTHERS = 1.15


@dataclass(frozen=True, slots=True)
class Offer:
    """What could be proposed for a row."""

    probability: float
    """That a token is accepted if those before it were."""
    most: int
    """How many tokens can be proposed."""


NO_OFFER = Offer(0.0, 0)


def worth_proposing(probability: float, rows: int, cost: StepCost) -> bool:
    """Whether even one token of such a proposal may pay."""
    return cost.ready and probability > _MIN_GAIN * cost.token_share(rows)


def choose_lengths(offers: Sequence[Offer], cost: StepCost) -> list[int]:
    """How many tokens to propose for each row; all 0 if the step would not gain enough.

    Tokens are added while each is more likely to be accepted than it costs; a batch whose time is
    proportional to its tokens gains nothing, and proposes nothing.
    """
    rows = len(offers)
    nothing = [0] * rows
    if not cost.ready:
        return nothing
    share = _MIN_GAIN * cost.token_share(rows)
    lengths = [_length(offer, share) for offer in offers]
    slowdown = cost.slowdown(sum(lengths))
    while slowdown > _MAX_SLOWDOWN_OF_OTHERS and any(lengths) and not all(lengths):
        lengths = [length // 2 for length in lengths]
        slowdown = cost.slowdown(sum(lengths))
    if not any(lengths):
        return nothing
    gain = sum(
        expected_tokens(offer.probability, length)
        for offer, length in zip(offers, lengths, strict=True)
    )
    return lengths if 1 + gain / rows > _MIN_GAIN * slowdown else nothing


def expected_tokens(probability: float, length: int) -> float:
    """How many tokens of a proposal are accepted on average."""
    if probability >= 1:
        return float(length)
    return probability * (1 - probability**length) / (1 - probability)


def _length(offer: Offer, share: float) -> int:
    """How many tokens are each more likely to be accepted than their share of the cost."""
    most = min(offer.most, MAX_PROPOSED)
    if offer.probability <= share or most <= 0:
        return 0
    if share <= 0 or offer.probability >= 1:
        return most
    return min(most, int(math.log(share) / math.log(offer.probability)))
