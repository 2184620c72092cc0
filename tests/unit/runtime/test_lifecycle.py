from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_runtime.lifecycle import TRANSITIONS, EngineState, check_transition
from mlxmesh_shared.errors import IllegalState

S = EngineState


@pytest.mark.parametrize(
    "life",
    [
        [S.STARTING, S.READY, S.DRAINING, S.STOPPED],
        [S.STARTING, S.BACKOFF, S.STARTING, S.READY, S.BACKOFF, S.FAILED, S.DRAINING, S.STOPPED],
        [S.STARTING, S.DRAINING, S.STOPPED],
        [S.STARTING, S.READY, S.DRAINING, S.STARTING, S.READY, S.DRAINING, S.STOPPED],
        [S.STARTING, S.BACKOFF, S.DRAINING, S.STOPPED],
    ],
)
def test_typical_lifecycles_are_legal(life: list[EngineState]) -> None:
    for before, after in pairwise(life):
        check_transition(before, after)


@given(st.sampled_from(EngineState), st.sampled_from(EngineState))
def test_an_illegal_transition_names_both_states(before: EngineState, after: EngineState) -> None:
    if after in TRANSITIONS[before]:
        check_transition(before, after)
    else:
        with pytest.raises(IllegalState, match=rf"{before} cannot become {after}"):
            check_transition(before, after)


def test_every_state_can_end() -> None:
    def ends(state: EngineState, seen: frozenset[EngineState] = frozenset()) -> bool:
        onward = TRANSITIONS[state] - seen
        return state is S.STOPPED or any(ends(after, seen | {state}) for after in onward)

    assert all(ends(state) for state in EngineState)
    assert not TRANSITIONS[S.STOPPED]
