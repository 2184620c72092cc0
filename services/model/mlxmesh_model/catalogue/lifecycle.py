"""The lifecycle of a model version: its states and transitions. Pure."""

from enum import StrEnum

from mlxmesh_shared.errors import IllegalState


class State(StrEnum):
    """The lifecycle state of a version; the values are stored."""

    PULLING = "pulling"
    PULL_FAILED = "pull_failed"
    AVAILABLE = "available"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    LOAD_FAILED = "load_failed"
    DELETED = "deleted"


class Action(StrEnum):
    """What a caller does with a version; the values are part of messages."""

    PULL = "pull"
    FINISH_PULL = "finish the pull of"
    FAIL_PULL = "fail the pull of"
    LOAD = "load"
    UNLOAD = "unload"
    DELETE = "delete"


TRANSITIONS: dict[tuple[State, Action], State] = {
    (State.PULLING, Action.FINISH_PULL): State.AVAILABLE,
    (State.PULLING, Action.FAIL_PULL): State.PULL_FAILED,
    (State.PULL_FAILED, Action.PULL): State.PULLING,
    (State.AVAILABLE, Action.PULL): State.PULLING,  # only when its files are damaged
    (State.PULL_FAILED, Action.DELETE): State.DELETED,
    (State.AVAILABLE, Action.LOAD): State.LOADING,
    (State.AVAILABLE, Action.UNLOAD): State.AVAILABLE,
    (State.AVAILABLE, Action.DELETE): State.DELETED,
    (State.LOADING, Action.LOAD): State.LOADING,
    (State.LOADING, Action.UNLOAD): State.UNLOADING,
    (State.READY, Action.LOAD): State.READY,
    (State.READY, Action.UNLOAD): State.UNLOADING,
    (State.UNLOADING, Action.LOAD): State.LOADING,
    (State.UNLOADING, Action.UNLOAD): State.UNLOADING,
    (State.LOAD_FAILED, Action.LOAD): State.LOADING,
    (State.LOAD_FAILED, Action.UNLOAD): State.UNLOADING,
}

_REMEDY: dict[tuple[State, Action], str] = {
    (State.PULLING, Action.PULL): "another call is pulling it; wait for that call",
    (State.LOADING, Action.PULL): "unload it first",
    (State.READY, Action.PULL): "unload it first",
    (State.UNLOADING, Action.PULL): "wait until it is unloaded",
    (State.LOAD_FAILED, Action.PULL): "unload it first",
    (State.PULLING, Action.LOAD): "wait until it is downloaded",
    (State.PULLING, Action.DELETE): "cancel the pull first",
    (State.PULL_FAILED, Action.LOAD): "pull it again first",
    (State.LOADING, Action.DELETE): "unload it first",
    (State.READY, Action.DELETE): "unload it first",
    (State.UNLOADING, Action.DELETE): "wait until it is unloaded",
    (State.LOAD_FAILED, Action.DELETE): "unload it first",
}

ON_DISK = frozenset(State) - {State.PULLING, State.PULL_FAILED, State.DELETED}


def next_state(state: State, action: Action, *, subject: str) -> State:
    """The state after an action.

    Raises: IllegalState, which names the subject, its state and the remedy.
    """
    target = TRANSITIONS.get((state, action))
    if target is None:
        remedy = _REMEDY.get((state, action), "no action is needed")
        raise IllegalState(f"cannot {action} {subject}: it is {state.upper()}; {remedy}")
    return target


def state_of(state: State, *, desired: int, present: int, ready: int, failed: bool) -> State:
    """The state that follows from a version's replicas; if not on disk, the present state."""
    if state not in ON_DISK:
        return state
    if desired == 0:
        return State.UNLOADING if present else State.AVAILABLE
    if ready:
        return State.READY
    return State.LOAD_FAILED if failed else State.LOADING
