"""Every state of a job with every move."""

import itertools

import pytest

from mlxmesh_jobs.domain.states import Move, State, after, sources
from mlxmesh_shared.errors import IllegalState

ALLOWED = {
    State.DELAYED: {
        Move.DUE: State.WAITING,
        Move.EXPIRE: State.FAILED,
        Move.CANCEL: State.CANCELLED,
    },
    State.WAITING: {
        Move.CLAIM: State.RUNNING,
        Move.EXPIRE: State.FAILED,
        Move.CANCEL: State.CANCELLED,
    },
    State.RUNNING: {
        Move.COMPLETE: State.COMPLETED,
        Move.DELAY: State.DELAYED,
        Move.REQUEUE: State.WAITING,
        Move.FAIL: State.FAILED,
        Move.EXPIRE: State.FAILED,
        Move.CANCEL: State.CANCELLING,
        Move.STOPPED: State.WAITING,
    },
    State.CANCELLING: {
        Move.COMPLETE: State.COMPLETED,
        Move.CANCEL: State.CANCELLING,
        Move.EXPIRE: State.CANCELLED,
        Move.DELAY: State.CANCELLED,
        Move.REQUEUE: State.CANCELLED,
        Move.FAIL: State.CANCELLED,
        Move.STOPPED: State.CANCELLED,
    },
    State.COMPLETED: {Move.RETRY_REQUESTS: State.WAITING},
    State.FAILED: {Move.RETRY: State.WAITING},
    State.CANCELLED: {Move.RETRY: State.WAITING},
}


@pytest.mark.parametrize(("state", "move"), list(itertools.product(State, Move)))
def test_a_move_leads_to_its_state_or_is_refused(state: State, move: Move):
    if move in ALLOWED[state]:
        assert after(state, move) is ALLOWED[state][move]
        assert state in sources(move)
        return
    assert state not in sources(move)
    with pytest.raises(IllegalState, match=f"{state.name} cannot {move.value}"):
        after(state, move)


@pytest.mark.parametrize("state", list(State))
def test_a_state_waits_is_held_or_has_ended(state: State):
    waits = state in (State.DELAYED, State.WAITING)
    assert [waits, state.held, state.ended].count(True) == 1


@pytest.mark.parametrize("state", list(State))
def test_every_state_that_has_not_ended_can_end(state: State):
    assert state.ended or any(to.ended for to in ALLOWED[state].values())
