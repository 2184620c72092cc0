"""How long decode steps take, and what was read beside each. Pure.

A turn starts a step, waits for the step before, then starts to read. Between the ends of two steps
lies what was read two turns ago, or, where starting waits for the device, one turn ago.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Read:
    """The prompt tokens that one turn started to read."""

    long_tokens: int = 0
    """Of long prompts."""
    other_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.long_tokens + self.other_tokens


class DecodePace:
    """Fed turn by turn: first whether a step ended, then what is read."""

    def __init__(self) -> None:
        self._reads: deque[Read] = deque(maxlen=2)
        self._last_end_s: float | None = None

    def step_ended(self, now_s: float) -> tuple[float, Read] | None:
        """Seconds since the step before, and what was read between; None where that is unclear."""
        last_end_s, self._last_end_s = self._last_end_s, now_s
        if last_end_s is None or len(self._reads) < 2:
            return None
        one, other = self._reads
        if bool(one.tokens) != bool(other.tokens):
            return None
        return now_s - last_end_s, Read(
            max(one.long_tokens, other.long_tokens), max(one.other_tokens, other.other_tokens)
        )

    def no_step_ended(self) -> None:
        self._last_end_s = None
        self._reads.clear()

    def reads(self, read: Read) -> None:
        self._reads.append(read)
