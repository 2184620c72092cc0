"""How many prompt tokens one step may read, so that nobody waits long for the next. Pure."""

# A step that takes tens of seconds looks like one that hangs.
_SLOW_S = 1.0
_FAST_S = 0.5
_LEAST_TOKENS = 8


class PrefillBudget:
    """Shrinks after a slow step, and grows back up to the setting after fast ones."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self.tokens = most_tokens

    def note(self, step_s: float) -> None:
        """Notes how long a step that read prompts took."""
        if step_s > _SLOW_S:
            fitting = int(self.tokens * min(0.5, _SLOW_S / step_s))
            self.tokens = min(self._most_tokens, max(_LEAST_TOKENS, fitting))
        elif step_s < _FAST_S:
            self.tokens = min(self._most_tokens, self.tokens * 2)


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
