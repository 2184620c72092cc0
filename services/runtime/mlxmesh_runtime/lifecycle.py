"""An engine's states and the legal moves between them.

Pure: nothing here does I/O or reads a clock.
"""

from __future__ import annotations

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
    # Asked to leave by another than its runtime, an engine is replaced.
    _S.DRAINING: frozenset({_S.STOPPED, _S.STARTING}),
    _S.STOPPED: frozenset(),
}


def check_move(before: EngineState, after: EngineState) -> None:
    """Raises IllegalState naming both states when an engine may not go from one to the other."""
    if after not in MOVES[before]:
        raise IllegalState(f"an engine that is {before} cannot become {after}")
