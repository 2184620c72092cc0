"""The lifecycle of a version: transitions, errors that name the state, and what replicas imply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_model.catalogue.lifecycle import (
    ON_DISK,
    TRANSITIONS,
    Action,
    State,
    next_state,
    state_of,
)
from mlxmesh_shared.errors import IllegalState

LIVING = [state for state in State if state is not State.DELETED]


@pytest.mark.parametrize("state", LIVING)
@pytest.mark.parametrize("action", Action)
def test_every_action_is_legal_or_names_the_state(state, action):
    if (state, action) in TRANSITIONS:
        assert next_state(state, action, subject="pocket@1") is TRANSITIONS[state, action]
        return
    with pytest.raises(IllegalState) as refused:
        next_state(state, action, subject="pocket@1")
    assert "pocket@1" in refused.value.message
    assert state.upper() in refused.value.message


@pytest.mark.parametrize("state", [State.LOADING, State.READY, State.LOAD_FAILED])
def test_loaded_versions_cannot_be_deleted_in_any_state(state):
    with pytest.raises(IllegalState, match="unload it first"):
        next_state(state, Action.DELETE, subject="pocket@1")


def test_only_what_no_engine_has_is_pulled_again():
    pulled = {state for state, action in TRANSITIONS if action is Action.PULL}
    assert pulled == {State.PULL_FAILED, State.AVAILABLE}


@given(st.lists(st.sampled_from(list(Action)), max_size=30))
def test_deleted_is_final_and_loading_needs_files(actions):
    state = State.PULLING
    downloaded = False
    for action in actions:
        try:
            state = next_state(state, action, subject="pocket@1")
        except IllegalState:
            continue
        downloaded = downloaded or action is Action.FINISH_PULL
        assert downloaded or state in (State.PULLING, State.PULL_FAILED, State.DELETED)
        if state is State.DELETED:
            break
    if state is State.DELETED:
        for action in Action:
            with pytest.raises(IllegalState):
                next_state(state, action, subject="pocket@1")


@st.composite
def replica_counts(draw):
    present = draw(st.integers(0, 8))
    ready = draw(st.integers(0, present))
    desired = draw(st.integers(0, 8))
    return {"desired": desired, "present": present, "ready": ready, "failed": draw(st.booleans())}


@given(st.sampled_from(sorted(ON_DISK)), replica_counts())
def test_the_state_follows_from_the_replicas_alone(state, counts):
    found = state_of(state, **counts)
    assert found in ON_DISK
    assert state_of(found, **counts) is found
    if counts["desired"] == 0:
        assert found is (State.UNLOADING if counts["present"] else State.AVAILABLE)
    elif counts["ready"]:
        assert found is State.READY
    else:
        assert found is (State.LOAD_FAILED if counts["failed"] else State.LOADING)


@given(st.sampled_from([State.PULLING, State.PULL_FAILED]), replica_counts())
def test_replicas_do_not_change_the_state_of_a_pull(state, counts):
    assert state_of(state, **counts) is state
