"""How many prompt tokens one step may prefill without delaying the next step too long. Pure."""

from collections import deque
from dataclasses import dataclass

_MIN_TOKENS = 8
# A longer step delays the sequences that decode.
_MAX_STEP_S = 1.0
# While no sequence decodes, only liveness bounds a step: tens of seconds look like a stall.
_MAX_PREFILL_ONLY_STEP_S = 5.0


@dataclass(frozen=True, slots=True)
class PrefillTokens:
    """How many prompt tokens one step prefills."""

    long_tokens: int = 0
    """Tokens of long prompts."""
    other_tokens: int = 0

    @property
    def total(self) -> int:
        return self.long_tokens + self.other_tokens


class PrefillBudget:
    """Fits the tokens of a step to the measured cost of earlier steps, up to the setting.

    A step has a fixed cost. Slices are never so small that the fixed cost is most of a step:
    smaller slices would make prefill more expensive without making steps short.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._with_decode = LinearCost()
        self._prefill_only = LinearCost()

    def tokens(self, *, decoding: bool) -> int:
        """The token budget of the next step; `decoding`: whether other sequences decode in it."""
        max_s = _MAX_STEP_S if decoding else _MAX_PREFILL_ONLY_STEP_S
        cost = self._cost(decoding=decoding)
        if not cost.measured:
            return self._max_tokens
        fitting = max(cost.tokens_within(max_s), cost.break_even_tokens, _MIN_TOKENS)
        return min(self._max_tokens, int(fitting))

    def record(self, step_s: float, tokens: int, *, decoding: bool) -> None:
        """Records the duration of a step that prefilled so many tokens."""
        self._cost(decoding=decoding).record(step_s, tokens)

    def _cost(self, *, decoding: bool) -> "LinearCost":
        return self._with_decode if decoding else self._prefill_only


_DECAY = 0.9
# Below this relative spread of the step sizes, fixed and proportional cost cannot be separated.
_MIN_SPREAD = 0.05
_MIN_TOKEN_S = 1e-9


class LinearCost:
    """Estimates seconds = fixed_s + tokens * per_token_s by least squares with decaying weights."""

    def __init__(self) -> None:
        self._weight = self._tokens = self._tokens2 = self._seconds = self._product = 0.0

    @property
    def measured(self) -> bool:
        """Whether any step was recorded."""
        return self._tokens > 0

    @property
    def per_token_s(self) -> float:
        """Seconds for one more token; while all sizes are alike, the whole time is proportional."""
        mean_tokens, mean_s = self._tokens / self._weight, self._seconds / self._weight
        proportional_s = max(mean_s / mean_tokens, _MIN_TOKEN_S)
        variance = self._tokens2 / self._weight - mean_tokens**2
        if variance < (_MIN_SPREAD * mean_tokens) ** 2:
            return proportional_s
        slope_s = (self._product / self._weight - mean_tokens * mean_s) / variance
        # The fixed cost is not negative, and each token takes some time.
        return min(max(slope_s, 0.01 * proportional_s), proportional_s)

    @property
    def fixed_s(self) -> float:
        """Seconds that a step takes before its first token."""
        return max(0.0, (self._seconds - self.per_token_s * self._tokens) / self._weight)

    @property
    def break_even_tokens(self) -> float:
        """The size of a step whose fixed cost is half of its time."""
        return self.fixed_s / self.per_token_s

    def tokens_within(self, seconds: float) -> float:
        """The size of a step that takes this long; 0 or less if even an empty step takes longer."""
        return (seconds - self.fixed_s) / self.per_token_s

    def record(self, seconds: float, tokens: int) -> None:
        """Records one step."""
        self._weight = _DECAY * self._weight + 1
        self._tokens = _DECAY * self._tokens + tokens
        self._tokens2 = _DECAY * self._tokens2 + tokens**2
        self._seconds = _DECAY * self._seconds + seconds
        self._product = _DECAY * self._product + tokens * seconds


# Between two probes: steps without long prompts, which measure the baseline.
_STEPS_BETWEEN_PROBES = 64
# The first two cannot be attributed: prefill of the steps before may still run.
_STEPS_PER_PROBE = 4
_MIN_LONG_TOKENS = 4
_INITIAL_LONG_TOKENS = 16
_GROWTH = 1.1


class LongPromptBudget:
    """How many tokens of long prompts a decode step may prefill as well.

    It keeps steps below `slowdown` times their duration without prefill. A step that takes longer
    cuts the budget to what would have fitted; a shorter step raises it by up to a tenth.
    """

    def __init__(self, *, slowdown: float) -> None:
        self._slowdown = slowdown
        self._baseline_s: float | None = None
        self._steps_since_probe = _STEPS_BETWEEN_PROBES
        self._tokens = float(_INITIAL_LONG_TOKENS)

    def next_tokens(self) -> int:
        """The budget of the next step; 0 while a probe measures steps without prefill."""
        self._steps_since_probe += 1
        probing = self._steps_since_probe > _STEPS_BETWEEN_PROBES
        if self._steps_since_probe >= _STEPS_BETWEEN_PROBES + _STEPS_PER_PROBE:
            self._steps_since_probe = 0
        return 0 if probing else int(self._tokens)

    def record(self, step_s: float, tokens: int) -> None:
        """Records the duration of a decode step that prefilled so many tokens as well."""
        if tokens == 0:
            # The recent minimum: other work on the machine must not count as decoding.
            max_s = step_s if self._baseline_s is None else self._baseline_s * _GROWTH
            self._baseline_s = min(step_s, max_s)
        elif self._baseline_s is not None:
            spare_s = self._baseline_s * (self._slowdown - 1)
            fitting = tokens * spare_s / max(step_s - self._baseline_s, 1e-6)
            self._tokens = max(_MIN_LONG_TOKENS, min(fitting, self._tokens * _GROWTH))


class DecodeIntervals:
    """Attributes the time between the ends of two decode steps to the prefill between them.

    Call for each step first `step_ended` or `reset`, then `prefill_started`.
    """

    def __init__(self) -> None:
        self._prefills: deque[PrefillTokens] = deque(maxlen=2)
        self._last_end_s: float | None = None

    def step_ended(self, now_s: float) -> tuple[float, PrefillTokens] | None:
        """Seconds since the previous end and the prefill between; None if that is ambiguous."""
        last_end_s, self._last_end_s = self._last_end_s, now_s
        if last_end_s is None or len(self._prefills) < 2:
            return None
        first, second = self._prefills
        if bool(first.total) != bool(second.total):
            return None
        return now_s - last_end_s, PrefillTokens(
            max(first.long_tokens, second.long_tokens), max(first.other_tokens, second.other_tokens)
        )

    def reset(self) -> None:
        """No decode step ended: the next interval has no beginning."""
        self._last_end_s = None
        self._prefills.clear()

    def prefill_started(self, prefill: PrefillTokens) -> None:
        self._prefills.append(prefill)
