"""The states of a job, and the moves between them."""

from enum import IntEnum, StrEnum

from mlxmesh_shared.errors import IllegalState


class State(IntEnum):
    """As in JobState; stored."""

    DELAYED = 1
    WAITING = 2
    RUNNING = 3
    CANCELLING = 4
    COMPLETED = 5
    FAILED = 6
    CANCELLED = 7

    @property
    def ended(self) -> bool:
        """Whether nothing happens to the job any more, unless it is retried."""
        return self in (State.COMPLETED, State.FAILED, State.CANCELLED)

    @property
    def held(self) -> bool:
        """Whether a worker has the job."""
        return self in (State.RUNNING, State.CANCELLING)


class Move(StrEnum):
    """What happens to a job."""

    DUE = "due"
    """The time that it waited for has come."""
    CLAIM = "claim"
    """A worker begins the next attempt."""
    COMPLETE = "complete"
    """The attempt has its result."""
    DELAY = "delay"
    """The attempt failed, and another one follows after a delay."""
    REQUEUE = "requeue"
    """The attempt ended without being at fault, and another one follows at once."""
    FAIL = "fail"
    """The attempt failed for good."""
    EXPIRE = "expire"
    """The deadline has passed."""
    CANCEL = "cancel"
    """Its owner cancels it."""
    STOPPED = "stopped"
    """The attempt ended because it was cancelled."""
    RETRY = "retry"
    """Its owner runs it again."""
    RETRY_REQUESTS = "retry requests"
    """The owner of a batch runs those of its requests again that did not complete."""


_MOVES: dict[tuple[State, Move], State] = {
    (State.DELAYED, Move.DUE): State.WAITING,
    (State.DELAYED, Move.EXPIRE): State.FAILED,
    (State.DELAYED, Move.CANCEL): State.CANCELLED,
    (State.WAITING, Move.CLAIM): State.RUNNING,
    (State.WAITING, Move.EXPIRE): State.FAILED,
    (State.WAITING, Move.CANCEL): State.CANCELLED,
    (State.RUNNING, Move.COMPLETE): State.COMPLETED,
    (State.RUNNING, Move.DELAY): State.DELAYED,
    (State.RUNNING, Move.REQUEUE): State.WAITING,
    (State.RUNNING, Move.FAIL): State.FAILED,
    (State.RUNNING, Move.EXPIRE): State.FAILED,
    (State.RUNNING, Move.CANCEL): State.CANCELLING,
    # A result that was there before the worker heard of the cancellation is kept.
    (State.CANCELLING, Move.COMPLETE): State.COMPLETED,
    (State.CANCELLING, Move.CANCEL): State.CANCELLING,
    (State.CANCELLING, Move.EXPIRE): State.CANCELLED,
    **{
        (State.CANCELLING, move): State.CANCELLED
        for move in (Move.DELAY, Move.REQUEUE, Move.FAIL, Move.STOPPED)
    },
    (State.RUNNING, Move.STOPPED): State.WAITING,
    (State.FAILED, Move.RETRY): State.WAITING,
    (State.CANCELLED, Move.RETRY): State.WAITING,
    (State.COMPLETED, Move.RETRY_REQUESTS): State.WAITING,
}


def after(state: State, move: Move) -> State:
    """The state after a move. Raises: IllegalState for a move that the state does not allow."""
    to = _MOVES.get((state, move))
    if to is None:
        raise IllegalState(f"a job that is {state.name} cannot {move.value}")
    return to


def sources(move: Move) -> frozenset[State]:
    """The states in which a move is allowed."""
    return frozenset(state for state, allowed in _MOVES if allowed is move)
