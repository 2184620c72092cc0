"""How many prompt tokens one step may prefill, so that nobody waits long for the next. Pure."""

_MIN_TOKENS = 8
# Longer steps keep those that decode waiting.
_MAX_STEP_S = 1.0
# Where nobody decodes only liveness bounds a step: one of tens of seconds looks like a stall.
_MAX_LONE_STEP_S = 5.0


class PrefillBudget:
    """Fits the tokens of a step to what earlier ones took, never beyond the setting.

    A step costs something before its first token, so slices are never so small that this fixed cost
    is most of it: cutting them further would make every step dearer and none of them short.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._beside = LinearCost()
        self._alone = LinearCost()

    def tokens(self, *, decoding: bool) -> int:
        """The most tokens for the next step; `decoding` tells whether others decode meanwhile."""
        cost, max_s = (self._beside, _MAX_STEP_S) if decoding else (self._alone, _MAX_LONE_STEP_S)
        if not cost.known:
            return self._max_tokens
        fitting = max(cost.tokens_within(max_s), cost.break_even_tokens, _MIN_TOKENS)
        return min(self._max_tokens, int(fitting))

    def note(self, step_s: float, tokens: int, *, decoding: bool) -> None:
        """Notes how long a step took that prefilled so many tokens."""
        (self._beside if decoding else self._alone).note(step_s, tokens)


_MEMORY = 0.9
# Sizes that spread by less than this, relative to their mean, do not tell the two costs apart.
_MIN_SPREAD = 0.05
_MIN_TOKEN_S = 1e-9


class LinearCost:
    """Estimates seconds = fixed_s + tokens * per_token_s by least squares; old steps fade."""

    def __init__(self) -> None:
        self._weight = self._tokens = self._tokens2 = self._seconds = self._product = 0.0

    @property
    def known(self) -> bool:
        """Whether any step was noted."""
        return self._tokens > 0

    @property
    def per_token_s(self) -> float:
        """Seconds that one more token takes; all of the time while sizes were alike."""
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
        """The size of a step of which half is the fixed cost."""
        return self.fixed_s / self.per_token_s

    def tokens_within(self, seconds: float) -> float:
        """The size of a step that takes so long; not above zero where none is so short."""
        return (seconds - self.fixed_s) / self.per_token_s

    def note(self, seconds: float, tokens: int) -> None:
        """Notes one step."""
        self._weight = _MEMORY * self._weight + 1
        self._tokens = _MEMORY * self._tokens + tokens
        self._tokens2 = _MEMORY * self._tokens2 + tokens**2
        self._seconds = _MEMORY * self._seconds + seconds
        self._product = _MEMORY * self._product + tokens * seconds


# Between two looks at how long a step takes without prompts to read.
_STEPS_BETWEEN_LOOKS = 64
# The first two are not told apart from those before.
_STEPS_TO_LOOK = 4
_LEAST_LONG_TOKENS = 4
_FIRST_LONG_TOKENS = 16
_GROWTH = 1.1


class LongPromptBudget:
    """How many tokens of long prompts a decode step may carry along.

    It keeps steps below `slowdown` times what they take when nothing is read: a step that is over
    cuts it to what would have fitted, a step that is under lets it grow a little.
    """

    def __init__(self, *, slowdown: float) -> None:
        self._slowdown = slowdown
        self._quiet_s: float | None = None
        self._steps_since_look = _STEPS_BETWEEN_LOOKS
        self._tokens = float(_FIRST_LONG_TOKENS)

    def take(self) -> int:
        """The tokens for the next step; 0 when it is time to see how long a step takes without."""
        self._steps_since_look += 1
        looking = self._steps_since_look > _STEPS_BETWEEN_LOOKS
        if self._steps_since_look >= _STEPS_BETWEEN_LOOKS + _STEPS_TO_LOOK:
            self._steps_since_look = 0
        return 0 if looking else int(self._tokens)

    def note(self, step_s: float, tokens: int) -> None:
        """Notes how long a decode step took that carried so many tokens along."""
        if tokens == 0:
            # The least of late: what else the machine does must not pass for decoding.
            most_s = step_s if self._quiet_s is None else self._quiet_s * _GROWTH
            self._quiet_s = min(step_s, most_s)
        elif self._quiet_s is not None:
            spare_s = self._quiet_s * (self._slowdown - 1)
            fitting = tokens * spare_s / max(step_s - self._quiet_s, 1e-6)
            self._tokens = max(_LEAST_LONG_TOKENS, min(fitting, self._tokens * _GROWTH))
