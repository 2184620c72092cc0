from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_runtime.lifecycle import MOVES, Breaker, EngineState, check_move
from mlxmesh_shared.errors import IllegalState

S = EngineState


@pytest.mark.parametrize(
    "life",
    [
        [S.STARTING, S.READY, S.DRAINING, S.STOPPED],
        [S.STARTING, S.BACKOFF, S.STARTING, S.READY, S.BACKOFF, S.FAILED, S.DRAINING, S.STOPPED],
        [S.STARTING, S.DRAINING, S.STOPPED],
        [S.STARTING, S.BACKOFF, S.DRAINING, S.STOPPED],
    ],
)
def test_lives_that_happen_are_legal(life: list[EngineState]) -> None:
    for before, after in pairwise(life):
        check_move(before, after)


@given(st.sampled_from(EngineState), st.sampled_from(EngineState))
def test_every_other_move_names_both_states(before: EngineState, after: EngineState) -> None:
    if after in MOVES[before]:
        check_move(before, after)
    else:
        with pytest.raises(IllegalState, match=rf"{before} cannot become {after}"):
            check_move(before, after)


def test_every_state_can_end() -> None:
    def ends(state: EngineState, seen: frozenset[EngineState] = frozenset()) -> bool:
        onward = MOVES[state] - seen
        return state is S.STOPPED or any(ends(after, seen | {state}) for after in onward)

    assert all(ends(state) for state in EngineState)
    assert not MOVES[S.STOPPED]


def test_breaker_opens_at_its_number_of_failures() -> None:
    breaker = Breaker(failures=3, window_s=10)
    opened: list[bool] = []
    for now_s in (0, 4, 8):
        breaker.record_failure(now_s)
        opened.append(breaker.is_open(now_s))
    assert opened == [False, False, True]


def test_breaker_forgets_what_left_the_window() -> None:
    breaker = Breaker(failures=3, window_s=10)
    for now_s in (0, 4, 10.5):
        breaker.record_failure(now_s)
    assert not breaker.is_open(10.5)
    breaker.record_failure(11)
    assert breaker.is_open(11)
    assert not breaker.is_open(15)


@given(
    st.lists(st.floats(0, 50), max_size=20).map(sorted),
    st.integers(1, 5),
    st.floats(0.1, 30),
)
def test_breaker_equals_counting(times_s: list[float], failures: int, window_s: float) -> None:
    breaker = Breaker(failures=failures, window_s=window_s)
    for number, now_s in enumerate(times_s, start=1):
        breaker.record_failure(now_s)
        recent = [at_s for at_s in times_s[:number] if now_s - at_s <= window_s]
        assert breaker.is_open(now_s) == (len(recent) >= failures)
