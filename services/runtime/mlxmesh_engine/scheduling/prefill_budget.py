"""How many prompt tokens one step may prefill without delaying the next step too long. Pure."""

import math
from dataclasses import dataclass

from mlxmesh_engine.scheduling.linear_cost import LinearCost

_MIN_TOKENS = 8
# A longer step delays the sequences that decode.
_MAX_STEP_S = 1.0
# While no sequence decodes, only liveness bounds a step: tens of seconds look like a stall.
_MAX_PREFILL_ONLY_STEP_S = 5.0
# Prefill may take this many times the fixed cost of a step, which is mostly decoding; more if more
# prompts wait for each sequence that decodes.
_MIN_PREFILL_RATIO = 2.0
_MAX_PREFILL_RATIO = 4.0
# Batches that minimize the mean time to the first token delay the last prompts by up to a tenth.
_BATCH_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for prefill, and how many sequences wait for that in turn."""

    prompts: int
    tokens: int
    decoding: int


class PrefillBudget:
    """Fits the tokens of a step to the measured cost of earlier steps, up to the setting.

    A step has a fixed cost: the decode step, and reading the weights for prefill. Of several
    waiting prompts one step prefills as many as make the mean time to the first token least:
    fewer repeat the fixed cost, more wait for each other.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._with_decode = LinearCost()
        self._prefill_only = LinearCost()

    def tokens(self, backlog: Backlog) -> int:
        """The token budget of the next step."""
        fitting = self._fitting_tokens(backlog)
        if backlog.prompts > 1:
            fitting = min(fitting, self._batch_tokens(backlog.tokens))
        return int(min(self._max_tokens, max(fitting, _MIN_TOKENS)))

    def _fitting_tokens(self, backlog: Backlog) -> float:
        cost = self._with_decode if backlog.decoding else self._prefill_only
        if not cost.measured:
            return math.inf
        if not backlog.decoding:
            return max(cost.tokens_within(_MAX_PREFILL_ONLY_STEP_S), cost.break_even_tokens)
        waiting = backlog.prompts / backlog.decoding
        ratio = min(max(_MIN_PREFILL_RATIO, waiting), _MAX_PREFILL_RATIO)
        return max(cost.tokens_within(_MAX_STEP_S), ratio * cost.break_even_tokens)

    def _batch_tokens(self, waiting_tokens: int) -> float:
        """How many of the waiting tokens one step prefills for short times to the first token.

        With a fixed cost o and w for each token, prefilling k of n tokens delays the n that wait by
        o + k*w. The mean is least if each batch is o/w smaller than the one before it, which makes
        the first one sqrt(2*n*o/w). Twice that gains almost as much and repeats o half as often.

        Source: Santos, Magazine, "Batching in single-operation manufacturing systems" (1985).
        """
        if not self._with_decode.measured:
            return math.inf
        return _BATCH_FACTOR * math.sqrt(2 * waiting_tokens * self._with_decode.break_even_tokens)

    def record(self, step_s: float, tokens: int, *, decoding: bool) -> None:
        """Records the duration of a step that prefilled so many tokens."""
        if tokens:
            (self._with_decode if decoding else self._prefill_only).record(step_s, tokens)
        elif decoding:
            self._with_decode.record_fixed(step_s)
