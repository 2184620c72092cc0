"""An engine's states, the legal moves between them, and the breaker that ends the restarts.

Pure: nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum

from mlxmesh_shared.errors import IllegalState


class EngineState(StrEnum):
    """Where an engine is in its life, as in the contract."""

    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


_S = EngineState
# Every failure passes through BACKOFF, also the one that opens the breaker.
MOVES: dict[EngineState, frozenset[EngineState]] = {
    _S.STARTING: frozenset({_S.READY, _S.BACKOFF, _S.DRAINING}),
    _S.READY: frozenset({_S.BACKOFF, _S.DRAINING}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.FAILED, _S.DRAINING}),
    _S.FAILED: frozenset({_S.DRAINING}),
    _S.DRAINING: frozenset({_S.STOPPED}),
    _S.STOPPED: frozenset(),
}


def check_move(before: EngineState, after: EngineState) -> None:
    """Raises IllegalState naming both states when an engine may not go from one to the other."""
    if after not in MOVES[before]:
        raise IllegalState(f"an engine that is {before} cannot become {after}")


class Breaker:
    """Opens after `failures` failures within `window_s`; times are seconds of any steady clock."""

    def __init__(self, *, failures: int, window_s: float) -> None:
        self._failures = failures
        self._window_s = window_s
        self._times_s: deque[float] = deque(maxlen=failures)

    def record_failure(self, now_s: float) -> None:
        """Count a failure that happened now."""
        self._times_s.append(now_s)

    def is_open(self, now_s: float) -> bool:
        """Whether it failed so often within the window that one more start is pointless."""
        recent = [at_s for at_s in self._times_s if now_s - at_s <= self._window_s]
        return len(recent) >= self._failures
