"""How many prompt tokens one step may read, so that a slow model's steps stay short. Pure."""

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
