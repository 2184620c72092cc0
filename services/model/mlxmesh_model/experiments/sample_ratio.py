"""Whether subjects were assigned as the weights say: a test that holds at any time. Pure.

Source: Lindon, Malek, Anytime-valid inference for multinomial count data, NeurIPS 2022, section 3.
"""

from collections.abc import Sequence
from math import exp, lgamma, log

_PRIOR_SUBJECTS = 100
"""How strongly the alternatives concentrate around the weights; the test is valid for any."""


def evidence(subjects: Sequence[int], weights: Sequence[int]) -> float:
    """The logarithm of the e-process against the weights, which must be above 0: a mixture of
    multinomial distributions by a Dirichlet distribution around the weights.
    """
    total, shares = sum(subjects), [weight / sum(weights) for weight in weights]
    found = lgamma(_PRIOR_SUBJECTS) - lgamma(_PRIOR_SUBJECTS + total)
    for count, share in zip(subjects, shares, strict=True):
        prior = _PRIOR_SUBJECTS * share
        found += lgamma(prior + count) - lgamma(prior) - count * log(share)
    return found


def p_value(largest_evidence: float) -> float:
    """The p-value by the largest evidence so far."""
    return exp(-max(0.0, largest_evidence))
