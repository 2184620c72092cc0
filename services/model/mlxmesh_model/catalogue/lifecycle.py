"""The life of a model version: which moves are legal, and what follows from its replicas."""

from enum import StrEnum

from mlxmesh_shared.errors import IllegalState


class State(StrEnum):
    """Where a version is in its life; the values are stored."""

    PULLING = "pulling"
    PULL_FAILED = "pull_failed"
    AVAILABLE = "available"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    LOAD_FAILED = "load_failed"
    DELETED = "deleted"


class Move(StrEnum):
    """What somebody wants to do with a version."""

    PULL = "pull"
    FINISH_PULL = "finish the pull of"
    FAIL_PULL = "fail the pull of"
    LOAD = "load"
    UNLOAD = "unload"
    DELETE = "delete"


MOVES: dict[tuple[State, Move], State] = {
    (State.PULLING, Move.FINISH_PULL): State.AVAILABLE,
    (State.PULLING, Move.FAIL_PULL): State.PULL_FAILED,
    (State.PULL_FAILED, Move.PULL): State.PULLING,
    (State.PULL_FAILED, Move.DELETE): State.DELETED,
    (State.AVAILABLE, Move.LOAD): State.LOADING,
    (State.AVAILABLE, Move.UNLOAD): State.AVAILABLE,
    (State.AVAILABLE, Move.DELETE): State.DELETED,
    (State.LOADING, Move.LOAD): State.LOADING,
    (State.LOADING, Move.UNLOAD): State.UNLOADING,
    (State.READY, Move.LOAD): State.READY,
    (State.READY, Move.UNLOAD): State.UNLOADING,
    (State.UNLOADING, Move.LOAD): State.LOADING,
    (State.UNLOADING, Move.UNLOAD): State.UNLOADING,
    (State.LOAD_FAILED, Move.LOAD): State.LOADING,
    (State.LOAD_FAILED, Move.UNLOAD): State.UNLOADING,
}

_REMEDY: dict[tuple[State, Move], str] = {
    (State.PULLING, Move.PULL): "another call is pulling it, wait for that one",
    (State.PULLING, Move.LOAD): "wait until it is downloaded",
    (State.PULLING, Move.DELETE): "cancel the pull first",
    (State.PULL_FAILED, Move.LOAD): "pull it again first",
    (State.LOADING, Move.DELETE): "unload it first",
    (State.READY, Move.DELETE): "unload it first",
    (State.UNLOADING, Move.DELETE): "wait until it is unloaded",
    (State.LOAD_FAILED, Move.DELETE): "unload it first",
}

ON_DISK = frozenset(State) - {State.PULLING, State.PULL_FAILED, State.DELETED}


def after(state: State, move: Move, *, subject: str) -> State:
    """The state that a move leads to.

    Raises: IllegalState, naming the subject, its state and what to do.
    """
    target = MOVES.get((state, move))
    if target is None:
        remedy = _REMEDY.get((state, move), "nothing has to be done")
        raise IllegalState(f"cannot {move} {subject}: it is {state.upper()}; {remedy}")
    return target


def settled(state: State, *, desired: int, present: int, ready: int, failed: bool) -> State:
    """The state that follows from a version's replicas; pulls are not touched by it."""
    if state not in ON_DISK:
        return state
    if desired == 0:
        return State.UNLOADING if present else State.AVAILABLE
    if ready:
        return State.READY
    return State.LOAD_FAILED if failed else State.LOADING
