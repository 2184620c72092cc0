"""A breaker opens for good reasons, tries with one call at a time, and is never stuck."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mlxmesh_shared.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineFailed,
    EngineLost,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    QueueFull,
)
from mlxmesh_shared.resilience.breaker import Breaker, BreakerPolicy, BreakerState, Permit

POLICY = BreakerPolicy()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def is_failure(error: MeshError) -> bool:
    return isinstance(error, EngineLost | Internal)


class Stand:
    def __init__(self, uniform: float = 0.0) -> None:
        self.clock = Clock()
        self.breaker = Breaker(
            POLICY, is_failure=is_failure, now_s=self.clock, uniform=lambda: uniform
        )

    def lose(self) -> None:
        self.breaker.admit().failed(at_once=True)

    def wait_half_open(self) -> None:
        self.clock.now_s += self.breaker.retry_in_s


def test_five_failures_in_a_row_open_it_and_a_success_between_does_not() -> None:
    stand = Stand()
    for _ in range(4):
        stand.breaker.admit().failed()
    stand.breaker.admit().succeeded()
    for _ in range(4):
        stand.breaker.admit().failed()
    assert stand.breaker.state is BreakerState.CLOSED
    stand.breaker.admit().failed()
    assert stand.breaker.state is BreakerState.OPEN
    assert not stand.breaker.ready
    assert stand.breaker.failures == 9


def test_half_of_ten_calls_open_it() -> None:
    stand = Stand()
    for _ in range(5):
        assert stand.breaker.state is BreakerState.CLOSED
        stand.breaker.admit().succeeded()
        stand.breaker.admit().failed()
    assert stand.breaker.state is BreakerState.OPEN


def test_failures_of_long_ago_do_not_count() -> None:
    stand = Stand()
    for _ in range(4):
        stand.breaker.admit().failed()
        stand.breaker.admit().succeeded()
    stand.clock.now_s += POLICY.window_s + 1
    for _ in range(4):
        stand.breaker.admit().succeeded()
        stand.breaker.admit().failed()
    assert stand.breaker.state is BreakerState.CLOSED


def test_a_lost_peer_opens_it_at_once_and_a_good_probe_closes_it() -> None:
    stand = Stand()
    stand.lose()
    assert stand.breaker.retry_in_s == POLICY.backoff_min_s
    stand.wait_half_open()
    assert stand.breaker.state is BreakerState.HALF_OPEN

    assert stand.breaker.ready
    probe = stand.breaker.admit()
    assert not stand.breaker.ready
    probe.succeeded()

    assert stand.breaker.state is BreakerState.CLOSED
    assert stand.breaker.failures == 0


def test_a_stream_that_began_is_probe_enough() -> None:
    stand = Stand()
    stand.lose()
    stand.wait_half_open()
    stand.breaker.admit().answered()
    assert stand.breaker.state is BreakerState.CLOSED


def test_each_bad_probe_doubles_the_pause_up_to_the_bound() -> None:
    stand = Stand()
    stand.lose()
    pauses_s = [stand.breaker.retry_in_s]
    for _ in range(8):
        stand.wait_half_open()
        stand.breaker.admit().failed()
        pauses_s.append(stand.breaker.retry_in_s)
    assert pauses_s == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_connection_that_is_back_ends_a_long_pause_soon_but_not_a_short_one() -> None:
    stand = Stand()
    stand.lose()
    short_s = stand.breaker.retry_in_s
    stand.breaker.reconnected()
    assert stand.breaker.retry_in_s == short_s
    for _ in range(10):
        stand.wait_half_open()
        stand.lose()
    assert stand.breaker.retry_in_s == POLICY.backoff_max_s

    stand.breaker.reconnected()
    assert stand.breaker.retry_in_s == POLICY.reconnected_s
    assert not stand.breaker.ready
    stand.wait_half_open()
    stand.breaker.admit().succeeded()
    stand.breaker.reconnected()
    assert stand.breaker.state is BreakerState.CLOSED


def test_jitter_takes_away_at_most_half_of_the_pause() -> None:
    stand = Stand(uniform=1.0)
    stand.lose()
    assert stand.breaker.retry_in_s == POLICY.backoff_min_s / 2


def test_a_call_from_before_the_opening_closes_nothing() -> None:
    stand = Stand()
    before = stand.breaker.admit()
    stand.clock.now_s += 1
    stand.lose()
    before.succeeded()
    assert stand.breaker.state is BreakerState.OPEN


def test_a_call_that_was_made_all_the_same_closes_it_when_it_ends_well() -> None:
    stand = Stand()
    stand.lose()
    stand.breaker.admit().succeeded()
    assert stand.breaker.state is BreakerState.CLOSED


def test_failures_while_it_is_open_do_not_put_the_probe_off() -> None:
    stand = Stand()
    stand.lose()
    retry_in_s = stand.breaker.retry_in_s
    stand.lose()
    assert (stand.breaker.retry_in_s, stand.breaker.failures) == (retry_in_s, 2)


def test_a_probe_that_was_given_up_makes_room_for_another() -> None:
    stand = Stand()
    stand.lose()
    stand.wait_half_open()
    stand.breaker.admit().drop()
    assert stand.breaker.ready


def test_a_probe_that_hangs_does_not_keep_others_from_trying() -> None:
    stand = Stand()
    stand.lose()
    stand.wait_half_open()
    stand.breaker.admit()
    stand.clock.now_s += POLICY.probe_timeout_s
    assert stand.breaker.ready


@pytest.mark.parametrize("error", [EngineLost("x"), Internal("x"), EngineFailed("x")])
def test_what_is_the_peers_fault(error: MeshError) -> None:
    stand = Stand()
    stand.breaker.admit().ended_by(error)
    assert stand.breaker.failures == 1


@pytest.mark.parametrize(
    "error",
    [InvalidArgument("x"), NotFound("x"), QueueFull("x"), Cancelled("x"), DeadlineExceeded("x")],
)
def test_what_is_not_the_peers_fault(error: MeshError) -> None:
    stand = Stand()
    for _ in range(20):
        stand.breaker.admit().ended_by(error)
    assert (stand.breaker.state, stand.breaker.failures) == (BreakerState.CLOSED, 0)


@pytest.mark.parametrize(("error", "failures"), [(Internal("x"), 1), (EngineLost("x"), 0)])
def test_without_a_classifier_only_internal_errors_count(error: MeshError, failures: int) -> None:
    breaker = Breaker(POLICY)
    breaker.admit().ended_by(error)
    assert breaker.failures == failures


def test_an_answer_of_any_kind_ends_a_probe_well_and_a_deadline_badly() -> None:
    stand = Stand()
    stand.lose()
    stand.wait_half_open()
    stand.breaker.admit().ended_by(DeadlineExceeded("x"))
    assert stand.breaker.state is BreakerState.OPEN
    stand.wait_half_open()
    stand.breaker.admit().ended_by(NotFound("x"))
    assert stand.breaker.state is BreakerState.CLOSED


class BreakerMachine(RuleBasedStateMachine):
    """Calls of every kind in every order; a picker that heeds `ready` and one that does not."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(POLICY, now_s=self.clock)
        self.probes: list[Permit] = []

    @rule(target=calls)
    def start(self) -> Permit:
        due = self.breaker.state is BreakerState.HALF_OPEN and self.breaker.ready
        permit = self.breaker.admit()
        assert self.breaker.is_probe(permit) == due
        return permit

    @rule(call=consumes(calls), kind=st.sampled_from(["succeeded", "drop", "failed"]))
    def end(self, call: Permit, kind: str) -> None:
        was_probe, before = self.breaker.is_probe(call), self.breaker.state
        getattr(call, kind)()
        if was_probe and kind == "failed":
            assert self.breaker.state is BreakerState.OPEN
        if was_probe and kind == "succeeded":
            assert self.breaker.state is BreakerState.CLOSED
        if kind == "drop":
            assert self.breaker.state is before

    @rule(call=consumes(calls))
    def lose(self, call: Permit) -> None:
        call.failed(at_once=True)
        assert self.breaker.state is not BreakerState.CLOSED
        assert self.breaker.failures > 0

    @rule(call=calls)
    def answer(self, call: Permit) -> None:
        call.answered()

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @invariant()
    def a_probe_keeps_all_others_out(self) -> None:
        if not self.breaker.ready or self.breaker.state is BreakerState.CLOSED:
            return
        probe = self.breaker.admit()
        assert self.breaker.is_probe(probe)
        assert not self.breaker.ready
        assert not self.breaker.is_probe(self.breaker.admit())
        probe.drop()
        assert self.breaker.ready

    @invariant()
    def it_is_never_stuck(self) -> None:
        assert 0 <= self.breaker.retry_in_s <= POLICY.backoff_max_s
        now_s = self.clock.now_s
        self.clock.now_s += POLICY.backoff_max_s + POLICY.probe_timeout_s
        assert self.breaker.ready
        self.clock.now_s = now_s


TestBreakerMachine = BreakerMachine.TestCase


def test_it_tells_when_it_opens_and_when_it_closes_but_not_of_each_failed_try() -> None:
    told, clock = list[BreakerState](), Clock()
    breaker = Breaker(
        POLICY, now_s=clock, uniform=lambda: 0.0, on_change=lambda one: told.append(one.state)
    )
    for _ in range(3):
        breaker.admit().failed(at_once=True)
        clock.now_s += breaker.retry_in_s
    assert told == [BreakerState.OPEN]
    breaker.admit().succeeded()
    breaker.admit().succeeded()
    assert told == [BreakerState.OPEN, BreakerState.CLOSED]
