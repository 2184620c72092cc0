"""Estimates the fixed and the proportional cost of a step from its durations. Pure."""

_DECAY = 0.9
# Below this relative spread of the sizes, fixed and proportional cost cannot be separated.
_MIN_SPREAD = 0.05
_MIN_TOKEN_S = 1e-9
# Whatever was measured: each token takes some time.
_MAX_FIXED_SHARE = 0.9


class LinearCost:
    """Estimates seconds = fixed_s + tokens * per_token_s by least squares with decaying weights.

    While all sizes are alike, the fixed cost is the last one that could be separated.
    """

    def __init__(self) -> None:
        self._weight = self._tokens = self._tokens2 = self._seconds = self._product = 0.0
        self._min_fixed_s = 0.0
        self._separated_s = 0.0

    @property
    def measured(self) -> bool:
        """Whether any step was recorded."""
        return self._tokens > 0

    @property
    def fixed_s(self) -> float:
        """Seconds that a step takes before its first token."""
        mean_s = self._seconds / self._weight
        return min(max(self._separated_s, self._min_fixed_s), _MAX_FIXED_SHARE * mean_s)

    @property
    def per_token_s(self) -> float:
        """Seconds for one more token."""
        return max((self._seconds - self.fixed_s * self._weight) / self._tokens, _MIN_TOKEN_S)

    @property
    def break_even_tokens(self) -> float:
        """The size of a step whose fixed cost is half of its time."""
        return self.fixed_s / self.per_token_s

    def tokens_within(self, seconds: float) -> float:
        """The size of a step that takes this long; 0 or less if even an empty step takes longer."""
        return (seconds - self.fixed_s) / self.per_token_s

    def seconds(self, tokens: float) -> float:
        """The duration of a step of this size."""
        return self.fixed_s + tokens * self.per_token_s

    def record_fixed(self, seconds: float) -> None:
        """Sets the least that the fixed cost can be: the time of a step without these tokens."""
        self._min_fixed_s = seconds

    def record(self, seconds: float, tokens: int) -> None:
        """Records one step of at least one token."""
        self._weight = _DECAY * self._weight + 1
        self._tokens = _DECAY * self._tokens + tokens
        self._tokens2 = _DECAY * self._tokens2 + tokens**2
        self._seconds = _DECAY * self._seconds + seconds
        self._product = _DECAY * self._product + tokens * seconds
        self._separate()

    def _separate(self) -> None:
        mean_tokens, mean_s = self._tokens / self._weight, self._seconds / self._weight
        variance = self._tokens2 / self._weight - mean_tokens**2
        if variance >= (_MIN_SPREAD * mean_tokens) ** 2:
            slope_s = (self._product / self._weight - mean_tokens * mean_s) / variance
            # The fixed cost is not negative, and each token takes some time.
            self._separated_s = max(0.0, mean_s - slope_s * mean_tokens)
