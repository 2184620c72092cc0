"""Tokens per second over the last second or so."""

from collections import deque

_WINDOW_S = 1.0


class TokenRate:
    """A sliding window; time is given, never taken."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def add(self, now_s: float, tokens: int) -> None:
        self._steps.append((now_s, tokens))
        self._tokens += tokens

    def per_second(self, now_s: float) -> float:
        while self._steps and now_s - self._steps[0][0] > _WINDOW_S:
            self._tokens -= self._steps.popleft()[1]
        return self._tokens / _WINDOW_S
