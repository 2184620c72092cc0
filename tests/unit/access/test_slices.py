"""Slices of quotas: what one gateway gets, and what many gateways spend together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlxmesh_access.quotas.models import LimitKind
from mlxmesh_access.quotas.slices import (
    MAX_CLOCK_SKEW_MS,
    REPORT_GRACE_MS,
    SHARE_GRACE_MS,
    Grant,
    Request,
    Spending,
    lease,
    slice_size,
)
from mlxmesh_access.quotas.windows import window_of

NOON_MS = 1_772_539_200_000  # 2026-03-03 12:00 UTC, the beginning of a minute
TOKENS = LimitKind.TOKENS_PER_MINUTE
SHARES = LimitKind.CONCURRENT_GENERATIONS
WINDOWED = [kind for kind in LimitKind if kind is not SHARES]
LARGE = 10**15


@dataclass
class Limit:
    """One limit, and the gateways that lease slices of it."""

    kind: LimitKind
    limit: int
    now_ms: int = NOON_MS
    spending: Spending = field(default_factory=Spending)

    def ask(self, gateway: str, *, spent: int = 0, wanted: int = LARGE) -> Grant:
        request = Request(gateway_id=gateway, spent=spent, wanted=wanted)
        self.spending, grant = lease(self.kind, self.limit, self.spending, request, self.now_ms)
        return grant


@pytest.mark.parametrize(
    ("kind", "limit", "size"),
    [
        (LimitKind.REQUESTS_PER_MINUTE, 1000, 100),
        (LimitKind.REQUESTS_PER_MINUTE, 9, 1),
        (LimitKind.TOKENS_PER_MINUTE, 1, 1),
        (LimitKind.TOKENS_PER_DAY, 1000, 10),
        (LimitKind.TOKENS_PER_MONTH, 99, 1),
    ],
)
def test_a_slice_is_a_tenth_of_a_minute_and_a_hundredth_of_longer(
    kind: LimitKind, limit: int, size: int
) -> None:
    assert slice_size(kind, limit) == size
    assert Limit(kind, limit).ask("a").granted == size


def test_no_more_is_granted_than_is_wanted() -> None:
    assert Limit(TOKENS, 1000).ask("a", wanted=7).granted == 7


def test_a_slice_ends_after_ten_seconds_or_with_its_window() -> None:
    limit = Limit(TOKENS, 1000)
    assert limit.ask("a").valid_ms == 10_000
    limit.now_ms += 57_000
    assert limit.ask("a").valid_ms == 3_000


def test_a_limit_that_is_spent_comes_back_with_the_next_window() -> None:
    limit = Limit(TOKENS, 100)
    limit.now_ms += 20_000
    assert limit.ask("a", spent=100) == Grant(0, 0, retry_after_ms=40_000)
    limit.now_ms += 40_000
    assert limit.ask("a").granted == 10


def test_nothing_wanted_is_no_reason_to_wait() -> None:
    limit = Limit(TOKENS, 100)
    assert limit.ask("a", spent=100, wanted=0) == Grant(0)


def test_a_returned_slice_is_there_for_others() -> None:
    limit = Limit(TOKENS, 1)
    assert limit.ask("a").granted == 1
    waiting = limit.ask("b")
    assert (waiting.granted, waiting.retry_after_ms) == (0, 10_000)
    limit.ask("a", wanted=0)
    assert limit.ask("b").granted == 1


def test_a_slice_that_was_never_reported_returns_after_the_grace() -> None:
    limit = Limit(LimitKind.TOKENS_PER_DAY, 1)
    assert limit.ask("killed").granted == 1
    limit.now_ms += 60_000 + REPORT_GRACE_MS - 1
    assert limit.ask("b").granted == 0
    limit.now_ms += 1
    assert limit.ask("b").granted == 1


def test_what_was_spent_beyond_a_slice_of_an_earlier_window_counts_now() -> None:
    limit = Limit(TOKENS, 100)
    assert limit.ask("a").granted == 10
    limit.now_ms += 60_000
    limit.ask("a", spent=35, wanted=0)
    assert limit.spending.spent_at(window_of(TOKENS, limit.now_ms)) == 25


def test_what_was_spent_of_a_slice_of_an_earlier_window_counted_there() -> None:
    limit = Limit(TOKENS, 100)
    limit.ask("a")
    limit.now_ms += 60_000
    limit.ask("b")  # begins the next window
    limit.ask("a", spent=10)
    assert limit.spending.spent_at(window_of(TOKENS, limit.now_ms)) == 0


@pytest.mark.parametrize("gateways", [1, 2, 3, 7])
def test_gateways_share_concurrency(gateways: int) -> None:
    limit = Limit(SHARES, 12)
    running = dict.fromkeys(range(gateways), 0)
    for _ in range(5):
        for gateway in running:
            granted = limit.ask(str(gateway), spent=running[gateway], wanted=12).granted
            running[gateway] = granted
            assert sum(running.values()) <= 12
    assert sum(running.values()) == 12
    assert max(running.values()) - min(running.values()) <= 1


def test_an_idle_gateway_leaves_its_share_to_others() -> None:
    limit = Limit(SHARES, 10)
    assert limit.ask("busy", wanted=10).granted == 10
    assert limit.ask("idle", wanted=1).granted == 0
    assert limit.ask("busy", spent=3, wanted=10).granted == 9
    assert limit.ask("idle", wanted=1).granted == 1


def test_what_runs_elsewhere_counts_until_it_ends() -> None:
    limit = Limit(SHARES, 10)
    limit.ask("a", wanted=10)
    limit.ask("b", wanted=10)
    assert limit.ask("a", spent=8, wanted=10).granted == 5
    assert limit.ask("b", wanted=10).granted == 2


def test_the_share_of_a_killed_gateway_returns() -> None:
    limit = Limit(SHARES, 2)
    assert limit.ask("killed", wanted=2).granted == 2
    waiting = limit.ask("b", wanted=2)
    assert (waiting.granted, waiting.retry_after_ms) == (0, 10_000)
    limit.now_ms += 10_000 + SHARE_GRACE_MS
    assert limit.ask("b", wanted=2).granted == 2


@given(
    limit=st.integers(1, 50),
    asks=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(0, 12_000))),
)
def test_concurrent_generations_never_exceed_the_limit(
    limit: int, asks: list[tuple[int, int, int]]
) -> None:
    """Gateways renew their shares while something runs there."""
    shares = Limit(SHARES, limit)
    running = dict.fromkeys(range(5), 0)
    valid_until_ms = dict.fromkeys(range(5), 0)
    for gateway, wanted, pause_ms in asks:
        shares.now_ms += min(pause_ms, 3_000)
        for each, until_ms in valid_until_ms.items():
            if until_ms <= shares.now_ms:
                running[each] = 0  # without a renewal its generations have ended
        grant = shares.ask(str(gateway), spent=running[gateway], wanted=wanted)
        running[gateway] = max(grant.granted, 0)
        valid_until_ms[gateway] = shares.now_ms + grant.valid_ms
        assert sum(running.values()) <= limit


@dataclass
class FakeGateway:
    """Spends what it holds while it is valid, and reports it within the grace."""

    held: int = 0
    valid_until_ms: int = 0
    unreported: int = 0


class ManyGateways(RuleBasedStateMachine):
    """However gateways lease, spend, pause and die, a limit is exceeded by no more than what killed
    gateways held.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gateways: dict[str, FakeGateway] = {}
        self.spent: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.started = 0

    @initialize(kind=st.sampled_from(WINDOWED), limit=st.integers(1, 5000))
    def begin(self, kind: LimitKind, limit: int) -> None:
        self.limit = Limit(kind, limit)
        self.gateways = {f"g{number}": FakeGateway() for number in range(3)}

    def window(self) -> int:
        return window_of(self.limit.kind, self.limit.now_ms).starts_ms

    @rule(index=st.integers(0, 2), wanted=st.integers(0, 3000))
    def ask(self, index: int, wanted: int) -> None:
        name = sorted(self.gateways)[index]
        gateway = self.gateways[name]
        grant = self.limit.ask(name, spent=gateway.unreported, wanted=wanted)
        assert grant.granted <= slice_size(self.limit.kind, self.limit.limit)
        assert grant.granted or not wanted or grant.retry_after_ms > 0
        valid_until_ms = self.limit.now_ms + grant.valid_ms
        self.gateways[name] = FakeGateway(grant.granted, valid_until_ms, 0)

    @rule(index=st.integers(0, 2), part=st.floats(0, 1))
    def spend(self, index: int, part: float) -> None:
        gateway = self.gateways[sorted(self.gateways)[index]]
        if self.limit.now_ms < gateway.valid_until_ms:
            amount = round(gateway.held * part)
            gateway.held -= amount
            gateway.unreported += amount
            self.spent[self.window()] = self.spent.get(self.window(), 0) + amount

    @rule(index=st.integers(0, 2))
    def die(self, index: int) -> None:
        name = sorted(self.gateways)[index]
        killed = self.gateways.pop(name)
        # What it spent and did not report is all that the service cannot know.
        self.lost[self.window()] = self.lost.get(self.window(), 0) + killed.unreported
        self.started += 1
        self.gateways[f"h{self.started}"] = FakeGateway()

    @rule(pause_s=st.integers(1, 50))
    def wait(self, pause_s: int) -> None:
        """Every gateway that lives reports within the grace."""
        self.limit.now_ms += pause_s * 1000
        for name, gateway in self.gateways.items():
            if gateway.unreported and self.limit.now_ms >= gateway.valid_until_ms:
                self.limit.ask(name, spent=gateway.unreported, wanted=0)
                self.gateways[name] = FakeGateway()

    @invariant()
    def the_limit_holds(self) -> None:
        for window, spent in self.spent.items():
            assert spent <= self.limit.limit + self.lost.get(window, 0)


TestManyGateways = ManyGateways.TestCase
TestManyGateways.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_one_gateway_can_spend_the_whole_limit() -> None:
    limit = Limit(TOKENS, 1003)
    spent = held = 0
    while True:
        grant = limit.ask("a", spent=held)
        if not grant.granted:
            break
        held = grant.granted
        spent += held
    assert spent == 1003


def test_a_repeated_request_counts_again() -> None:
    limit = Limit(TOKENS, 100)
    for _ in range(2):
        limit.ask("a", spent=10, wanted=0)
    assert limit.spending.spent == 20


def test_slices_of_ended_windows_do_not_count() -> None:
    limit = Limit(TOKENS, 1)
    limit.ask("a")
    limit.spending = replace(limit.spending)
    limit.now_ms += 60_000
    assert limit.ask("b").granted == 1


@given(
    limit=st.integers(1, 500),
    asks=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 20_000)), max_size=80
    ),
    skew_ms=st.integers(0, MAX_CLOCK_SKEW_MS),
)
def test_services_whose_clocks_differ_grant_one_limit(
    limit: int, asks: list[tuple[int, int, int]], skew_ms: int
) -> None:
    """Gateways spend all that they get; one of the services is behind."""
    stand = Limit(TOKENS, limit)
    now_ms = NOON_MS
    held = [0, 0, 0]
    spent: dict[int, int] = {}
    for gateway, service, pause_ms in asks:
        now_ms += pause_ms
        stand.now_ms = now_ms - skew_ms * service
        granted = stand.ask(str(gateway), spent=held[gateway]).granted
        held[gateway] = granted
        window = stand.spending.starts_ms
        spent[window] = spent.get(window, 0) + granted
        assert spent[window] <= limit
    assert sorted(spent) == list(spent)  # none is begun again


def test_a_window_far_ahead_was_begun_by_a_clock_that_was_wrong() -> None:
    limit = Limit(TOKENS, 100)
    limit.now_ms += 10**12
    limit.ask("a", spent=100)
    limit.now_ms = NOON_MS
    assert limit.ask("a").granted == 10
