"""The life of a version: legal moves, refusals that name the state, and what replicas imply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.catalogue.lifecycle import MOVES, ON_DISK, Move, State, after, settled
from mlxmesh_shared.errors import IllegalState

LIVING = [state for state in State if state is not State.DELETED]


@pytest.mark.parametrize("state", LIVING)
@pytest.mark.parametrize("move", Move)
def test_every_move_is_legal_or_names_the_state(state, move):
    if (state, move) in MOVES:
        assert after(state, move, subject="pocket@1") is MOVES[state, move]
        return
    with pytest.raises(IllegalState) as refused:
        after(state, move, subject="pocket@1")
    assert "pocket@1" in refused.value.message
    assert state.upper() in refused.value.message


@pytest.mark.parametrize("state", [State.LOADING, State.READY, State.LOAD_FAILED])
def test_what_is_loaded_cannot_be_deleted(state):
    with pytest.raises(IllegalState, match="unload it first"):
        after(state, Move.DELETE, subject="pocket@1")


def test_only_a_failed_pull_is_pulled_again():
    assert {state for state, move in MOVES if move is Move.PULL} == {State.PULL_FAILED}


@given(st.lists(st.sampled_from(list(Move)), max_size=30))
def test_no_way_leads_out_of_deleted_or_into_a_load_without_files(moves):
    state = State.PULLING
    downloaded = False
    for move in moves:
        try:
            state = after(state, move, subject="pocket@1")
        except IllegalState:
            continue
        downloaded = downloaded or move is Move.FINISH_PULL
        assert downloaded or state in (State.PULLING, State.PULL_FAILED, State.DELETED)
        if state is State.DELETED:
            break
    if state is State.DELETED:
        for move in Move:
            with pytest.raises(IllegalState):
                after(state, move, subject="pocket@1")


@st.composite
def replica_counts(draw):
    present = draw(st.integers(0, 8))
    ready = draw(st.integers(0, present))
    desired = draw(st.integers(0, 8))
    return {"desired": desired, "present": present, "ready": ready, "failed": draw(st.booleans())}


@given(st.sampled_from(sorted(ON_DISK)), replica_counts())
def test_settled_follows_from_the_replicas_alone(state, counts):
    found = settled(state, **counts)
    assert found in ON_DISK
    assert settled(found, **counts) is found
    if counts["desired"] == 0:
        assert found is (State.UNLOADING if counts["present"] else State.AVAILABLE)
    elif counts["ready"]:
        assert found is State.READY
    else:
        assert found is (State.LOAD_FAILED if counts["failed"] else State.LOADING)


@given(st.sampled_from([State.PULLING, State.PULL_FAILED]), replica_counts())
def test_a_pull_is_not_touched_by_replicas(state, counts):
    assert settled(state, **counts) is state
