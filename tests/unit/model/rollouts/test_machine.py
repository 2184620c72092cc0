"""How a rollout moves."""

import random
from datetime import timedelta
from itertools import product

import pytest

from mlxmesh_model.rollouts.guards import Counts
from mlxmesh_model.rollouts.machine import (
    REPEATED,
    TRANSITIONS,
    Action,
    Decision,
    Observed,
    decide,
    move,
)
from mlxmesh_model.rollouts.rollout import ENDED, Guard, Metric, Rollout, State
from mlxmesh_shared.errors import IllegalState
from tests.fakes.rollouts import NO_MEMORY, START, rollout, version, wish

AT_THE_END = START + timedelta(seconds=600)
GOOD, BAD = Counts(requests=100), Counts(requests=100, errors=2)
TERRIBLE = Counts(requests=100, errors=50)
PROGRESSING = rollout(state=State.PROGRESSING)


def observed(new: Counts = GOOD, present: Counts = GOOD) -> Observed:
    return Observed(version(), new, present)


def action(decision: Decision | None) -> Action | None:
    return decision.action if decision is not None else None


@pytest.mark.parametrize(("state", "action"), list(product(State, Action)))
def test_every_state_and_action(state: State, action: Action) -> None:
    before = rollout(state=state)
    if (state, action) not in TRANSITIONS:
        with pytest.raises(IllegalState, match=f"cannot {action} rollout r-1: it is"):
            move(before, Decision(action, "why"), now=AT_THE_END)
        return
    after, change = move(before, Decision(action, "why"), now=AT_THE_END, principal="user:ada")
    assert after.revision == before.revision + 1
    assert (change.state, change.weight) == (after.state, after.weight)
    assert (change.reason, change.principal) == ("why", "user:ada")
    assert (after.ended_at is None) == (after.state not in ENDED)
    assert (after.split is None) == (after.state in ENDED)
    if after.split is not None:
        assert sum(arm.weight for arm in after.split.arms) == 100
    begins = action in {Action.BEGIN, Action.ADVANCE, Action.RESUME}
    assert (after.step_at, after.window) == ((AT_THE_END, 1) if begins else (START, 0))


def test_an_ended_rollout_never_moves_again() -> None:
    assert not any(state in ENDED for state, _ in TRANSITIONS)
    for state in ENDED:
        assert decide(rollout(state=state), observed(TERRIBLE), AT_THE_END) is None


def test_every_other_state_can_end() -> None:
    for state in frozenset(State) - ENDED:
        ends = {TRANSITIONS.get((state, action)) for action in Action}
        assert ends >= ENDED


def test_what_is_repeated_is_no_transition() -> None:
    assert not REPEATED & TRANSITIONS.keys()


@pytest.mark.parametrize(
    ("ready", "desired", "expected"),
    [(0, 2, None), (1, 2, None), (2, 2, Action.BEGIN), (0, 0, Action.ROLL_BACK)],
)
def test_it_begins_once_every_replica_is_ready(
    ready: int, desired: int, expected: Action | None
) -> None:
    seen = Observed(version(ready=ready, desired=desired), Counts(), Counts())
    assert action(decide(rollout(), seen, START)) is expected


@pytest.mark.parametrize("ready", [0, 1])
def test_a_failed_load_rolls_back(ready: int) -> None:
    seen = Observed(version(ready=ready, desired=2, failure=NO_MEMORY), Counts(), Counts())
    decision = decide(rollout(), seen, START)
    assert action(decision) is Action.ROLL_BACK
    assert decision is not None
    assert NO_MEMORY.message in decision.reason


def test_a_version_that_lost_a_replica_goes_on_and_one_that_lost_all_rolls_back() -> None:
    for ready, expected in ((1, None), (0, Action.ROLL_BACK)):
        seen = Observed(version(ready=ready, desired=2, failure=NO_MEMORY), GOOD, GOOD)
        assert action(decide(PROGRESSING, seen, START)) is expected


def test_a_deleted_version_rolls_back() -> None:
    assert action(decide(rollout(), Observed(None, GOOD, GOOD), START)) is Action.ROLL_BACK


@pytest.mark.parametrize(
    ("new", "now", "expected"),
    [
        (GOOD, START, None),
        (BAD, START, None),
        (TERRIBLE, START, Action.ROLL_BACK),
        (GOOD, AT_THE_END, Action.ADVANCE),
        (BAD, AT_THE_END, Action.ROLL_BACK),
        (Counts(requests=19), AT_THE_END, None),
        (Counts(requests=19, errors=1), AT_THE_END, None),
        (Counts(requests=19, errors=9), START, Action.ROLL_BACK),
        (Counts(requests=20), AT_THE_END, Action.ADVANCE),
    ],
)
def test_a_step_is_judged(new: Counts, now: object, expected: Action | None) -> None:
    assert action(decide(PROGRESSING, observed(new), now)) is expected  # pyright: ignore[reportArgumentType]


def test_the_last_step_promotes_once_a_replica_is_ready() -> None:
    last = rollout(state=State.PROGRESSING, step=3)
    assert action(decide(last, observed(), AT_THE_END)) is Action.PROMOTE
    starting = Observed(version(ready=0), GOOD, GOOD)
    assert decide(last, starting, AT_THE_END) is None


def test_a_paused_rollout_is_ended_by_guards_alone() -> None:
    paused = rollout(state=State.PAUSED)
    assert decide(paused, observed(BAD), AT_THE_END) is None
    assert action(decide(paused, observed(TERRIBLE), START)) is Action.ROLL_BACK


def test_reasons_tell_what_was_read() -> None:
    slow = Counts(requests=100, ttft={340: 100})
    fast = Counts(requests=100, ttft={300: 100})
    guarded = wish(guards=(Guard(Metric.TTFT_P95, 1.2, relative=True),))
    decision = decide(rollout(guarded, state=State.PROGRESSING), observed(slow, fast), AT_THE_END)
    assert decision is not None
    assert decision.reason == (
        "ttft_p95<1.2x is broken: 21496ms, the present version has 3736ms "
        "at the end of the step of 1%"
    )
    assert decision.readings[0].kept is False


def _simulate(rng: random.Random, error_rate: float) -> tuple[Rollout, float, float]:
    """A rollout under 50 requests a second: how it ends, its holds, and the share of the new."""
    now, each = START, rollout(state=State.PROGRESSING)
    calls, reached, counts = 0, 0, Counts()
    while each.state not in ENDED:
        now += timedelta(seconds=1)
        new = sum(rng.random() * 100 < each.weight for _ in range(50))
        errors = sum(rng.random() < error_rate for _ in range(new))
        calls, reached = calls + 50, reached + new
        counts += Counts(requests=new, errors=errors)
        decision = decide(each, observed(counts), now)
        if decision is not None:
            each, _ = move(each, decision, now=now)
            counts = Counts()
    return each, (now - START).total_seconds() / each.wish.hold_s, reached / calls


def test_a_version_that_errors_on_five_percent_is_rolled_back_within_one_hold() -> None:
    """Of every rollout, at most 5 % of all calls reach it."""
    runs = [_simulate(random.Random(seed), 0.05) for seed in range(100)]
    assert {ended.state for ended, _, _ in runs} == {State.ROLLED_BACK}
    assert sum(holds <= 1 for _, holds, _ in runs) >= 99
    assert max(share for _, _, share in runs) <= 0.05


def test_a_version_without_errors_is_promoted_after_its_holds() -> None:
    ended, holds, _ = _simulate(random.Random(1), 0.0)
    assert (ended.state, holds) == (State.PROMOTED, 4)
