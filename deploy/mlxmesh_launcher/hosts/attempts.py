"""Limits how often hosts may try to join with tokens that are not valid. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mlxmesh_shared.errors import TooManyRequests

WINDOW_S = 60.0
MAX_PER_PEER = 5
MAX_OF_ALL = 50
"""A peer may have many addresses."""


class FailedAttempts:
    """The failures of the last minute, by the address of their peer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds that never go back."""
        self._clock = clock
        self._failures: deque[tuple[float, str]] = deque()

    def check(self, peer: str) -> None:
        """Raises: TooManyRequests, with a retry delay, while the peer or all failed too often."""
        self._forget_old()
        own = [at_s for at_s, who in self._failures if who == peer]
        if len(own) < MAX_PER_PEER and len(self._failures) < MAX_OF_ALL:
            return
        oldest_s = own[0] if len(own) >= MAX_PER_PEER else self._failures[0][0]
        raise TooManyRequests(
            "too many attempts to join with a token that is not valid; wait a minute, then try"
            " again with a token of `mlxmesh hosts invite`",
            retry_delay_s=max(0.0, oldest_s + WINDOW_S - self._clock()),
        )

    def record(self, peer: str) -> None:
        """Counts a failure."""
        self._failures.append((self._clock(), peer))

    def _forget_old(self) -> None:
        until_s = self._clock() - WINDOW_S
        while self._failures and self._failures[0][0] <= until_s:
            self._failures.popleft()
