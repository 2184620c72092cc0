"""Whether a rate is above a bound for certain, however often that is asked. Pure.

A mixture of likelihood ratios is a nonnegative supermartingale while the true rate is at most the
bound, so the chance that it ever reaches 1/alpha is at most alpha (Ville's inequality). One may
therefore look after every request and stop at once.

Sources: J. Ville (1939), Étude critique de la notion de collectif; H. Robbins (1970), Statistical
Methods Related to the Law of the Iterated Logarithm; S. Howard et al. (2021), Time-uniform,
nonparametric, nonasymptotic confidence sequences, section 3.
"""

import math

ALPHA = 0.01
"""The chance that a version that keeps its bound is ever held to break it, per guard and step."""
_ODDS_FACTOR = 1.5
_ALTERNATIVES = 16
_BISECTIONS = 40


def is_above(hits: int, trials: int, bound: float, alpha: float = ALPHA) -> bool:
    """Whether the rate behind hits of trials is above the bound for certain."""
    if bound <= 0:
        return hits > 0
    return bound < 1 and _log_evidence(hits, trials, bound) >= -math.log(alpha)


def lower_bound(hits: int, trials: int, alpha: float = ALPHA) -> float:
    """A bound that the rate is above, at all times together, but for a chance of alpha."""
    if hits == 0:
        return 0.0
    low, high = 0.0, hits / trials
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if is_above(hits, trials, middle, alpha):
            low = middle
        else:
            high = middle
    return low


def upper_bound(hits: int, trials: int, alpha: float = ALPHA) -> float:
    """A bound that the rate is below, at all times together, but for a chance of alpha."""
    return 1.0 - lower_bound(trials - hits, trials, alpha) if trials else 1.0


def _log_evidence(hits: int, trials: int, bound: float) -> float:
    """The logarithm of the mean likelihood ratio of higher rates to the bound."""
    misses = trials - hits
    ratios: list[float] = []
    for power in range(1, _ALTERNATIVES + 1):
        odds = bound / (1 - bound) * _ODDS_FACTOR**power
        rate = odds / (1 + odds)
        ratios.append(
            hits * math.log(rate / bound) + misses * (math.log1p(-rate) - math.log1p(-bound))
        )
    largest = max(ratios)
    total = sum(math.exp(ratio - largest) for ratio in ratios)
    return largest + math.log(total / _ALTERNATIVES)
