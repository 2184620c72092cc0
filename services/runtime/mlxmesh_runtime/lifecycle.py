"""The states of an engine and the legal transitions between them. Pure."""

from __future__ import annotations

from enum import StrEnum

from mlxmesh_shared.errors import IllegalState


class EngineState(StrEnum):
    """The lifecycle state of an engine, as in the contract."""

    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


_S = EngineState
# Every failure passes through BACKOFF, also the one that opens the circuit breaker.
TRANSITIONS: dict[EngineState, frozenset[EngineState]] = {
    _S.STARTING: frozenset({_S.READY, _S.BACKOFF, _S.DRAINING}),
    _S.READY: frozenset({_S.BACKOFF, _S.DRAINING}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.FAILED, _S.DRAINING}),
    _S.FAILED: frozenset({_S.DRAINING}),
    # An engine that drains although its runtime did not ask it to is replaced.
    _S.DRAINING: frozenset({_S.STOPPED, _S.STARTING}),
    _S.STOPPED: frozenset(),
}


def check_transition(before: EngineState, after: EngineState) -> None:
    """Raises: IllegalState, naming both states, if the transition is not legal."""
    if after not in TRANSITIONS[before]:
        raise IllegalState(f"an engine that is {before} cannot become {after}")
