"""Slices of quotas: what gateways spend together, and what happens while nobody grants any."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxmesh_access.quotas.models import LimitKind
from mlxmesh_access.quotas.slices import Request, Spending, lease
from mlxmesh_gateway.access.policies import Limit
from mlxmesh_gateway.access.quotas.account import Account, Grant, slice_of
from mlxmesh_gateway.access.quotas.shares import ShareAccount

NOON_S = 1_800_000_000.0
"""The beginning of a minute and of an hour."""


class Service:
    """The access service's own arithmetic, for one limit."""

    def __init__(self, kind: Limit, limit: int) -> None:
        self._kind = LimitKind(kind.title)
        self.limit = limit
        self._spending = Spending()

    def lease(self, gateway: str, spent: int, wanted: int, now_s: float) -> Grant:
        request = Request(gateway_id=gateway, spent=spent, wanted=wanted)
        self._spending, grant = lease(
            self._kind, self.limit, self._spending, request, round(now_s * 1000)
        )
        return Grant(grant.granted, grant.valid_ms / 1000, grant.retry_after_ms / 1000)


ACTIONS = ["call", "call", "call", "ask", "ask", "answer", "answer", "lose", "wait"]


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0),
    limit=st.integers(1, 200),
    cost=st.integers(1, 5),
    gateways=st.integers(1, 4),
)
def test_gateways_never_exceed_a_limit_by_more_than_their_slices(
    seed: int, limit: int, cost: int, gateways: int
) -> None:
    """Also if answers are late or lost, but each gateway gets one within a slice's validity."""
    chance, kind, now_s = random.Random(seed), Limit.TOKENS_PER_MINUTE, NOON_S
    service = Service(kind, limit)
    accounts = [Account(kind, limit, now_s) for _ in range(gateways)]
    answers: dict[int, Grant] = {}
    away_since_s: dict[int, float] = {}
    spent = 0
    for _ in range(300):
        action, which = chance.choice(ACTIONS), chance.randrange(gateways)
        account = accounts[which]
        if action == "call":
            for _ in range(chance.choice([1, 10])):
                if account.refusal_s(now_s) is None:
                    account.spend(cost, now_s)
                    spent += cost
        elif action == "ask" and which not in answers and account.needs_renewal(now_s):
            ask = account.ask()
            answers[which] = service.lease(str(which), ask.spent, ask.wanted, now_s)
        elif action == "answer" and which in answers:
            account.answer(answers.pop(which), now_s)
            away_since_s.pop(which, None)
        elif action == "lose" and (which in answers or account.needs_renewal(now_s)):
            if answers.pop(which, None) is None:  # the question itself is lost
                account.ask()
            account.fail()
            away_since_s.setdefault(which, now_s)
        elif action == "wait" and all(now_s - since < 9 for since in away_since_s.values()):
            now_s = min(now_s + 1.0, NOON_S + 59.0)
        # A call that begins with something left may use more than that.
        assert spent <= limit + gateways * (slice_of(kind, limit) + cost)


def test_a_question_that_nobody_answered_does_not_cancel_a_debt() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    assert exhaust(account, NOON_S) == 100
    account.ask()
    account.fail()
    assert exhaust(account, NOON_S) == 0
    assert account.refusal_s(NOON_S + 1) == pytest.approx(9)
    assert exhaust(account, NOON_S + 10) == 100


def test_a_question_that_nobody_answered_does_not_undo_a_refusal() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    account.spend(100, NOON_S)
    account.ask()
    account.answer(Grant(0, 0.0, 5.0), NOON_S)
    account.refusal_s(NOON_S + 5)
    account.ask()
    account.fail()
    assert exhaust(account, NOON_S + 5) == 0
    assert account.refusal_s(NOON_S + 6) == pytest.approx(9)
    assert exhaust(account, NOON_S + 15) == 100


def test_a_debt_of_one_minute_is_no_debt_of_the_next_while_access_is_away() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    account.ask()
    account.fail()
    account.refusal_s(NOON_S)
    account.spend(1500, NOON_S)
    assert exhaust(account, NOON_S + 59) == 0
    assert exhaust(account, NOON_S + 70) == 100


def exhaust(account: Account, now_s: float) -> int:
    """Calls of one until refused; how many there were."""
    calls = 0
    while account.refusal_s(now_s) is None:
        account.spend(1, now_s)
        calls += 1
    return calls


def renew(account: Account, service: Service, now_s: float, gateway: str = "g") -> Grant:
    ask = account.ask()
    grant = service.lease(gateway, ask.spent, ask.wanted, now_s)
    account.answer(grant, now_s)
    return grant


def test_one_gateway_may_spend_the_whole_limit_and_hears_when_there_is_more() -> None:
    account = Account(Limit.REQUESTS_PER_MINUTE, 100, NOON_S)
    service = Service(Limit.REQUESTS_PER_MINUTE, 100)
    calls, now_s = 0, NOON_S
    for _ in range(100):
        if account.refusal_s(now_s) is None:
            account.spend(1, now_s)
            calls += 1
        if account.needs_renewal(now_s):
            renew(account, service, now_s)
    for _ in range(20):
        calls += exhaust(account, now_s)
        if account.needs_renewal(now_s):
            renew(account, service, now_s)
    assert 100 <= calls <= 110
    assert account.refusal_s(now_s) == pytest.approx(60)
    assert account.refusal_s(NOON_S + 60) is None


def test_an_account_asks_before_its_slice_is_spent_or_lapses_and_not_without_use() -> None:
    account = Account(Limit.REQUESTS_PER_MINUTE, 100, NOON_S)
    assert not account.needs_renewal(NOON_S)
    assert account.refusal_s(NOON_S) is None
    account.spend(1, NOON_S)
    assert account.needs_renewal(NOON_S)
    account.ask()
    account.answer(Grant(10, 10.0, 0.0), NOON_S)
    assert not account.needs_renewal(NOON_S + 5)
    account.spend(6, NOON_S + 5)
    assert account.needs_renewal(NOON_S + 5)
    account.ask()
    account.answer(Grant(10, 10.0, 0.0), NOON_S + 5)
    account.spend(1, NOON_S + 5)
    assert not account.needs_renewal(NOON_S + 6)
    assert account.needs_renewal(NOON_S + 13)


def test_what_is_spent_while_a_question_runs_counts_against_its_answer() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    account.spend(40, NOON_S)
    assert account.ask().spent == 40
    account.spend(30, NOON_S)
    account.answer(Grant(100, 10.0, 0.0), NOON_S)
    assert account.ask().spent == 30
    account.answer(Grant(0, 0.0, 20.0), NOON_S)
    assert account.refusal_s(NOON_S) == pytest.approx(20)


def test_what_nobody_heard_of_is_reported_again() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    account.spend(40, NOON_S)
    account.ask()
    account.spend(2, NOON_S)
    account.fail()
    assert account.ask().spent == 42


def test_a_correction_reduces_what_is_reported_next_and_is_never_negative() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    account.spend(40, NOON_S)
    account.ask()
    account.answer(Grant(100, 10.0, 0.0), NOON_S)
    account.spend(-30, NOON_S)
    assert account.ask().spent == 0
    account.answer(Grant(100, 10.0, 0.0), NOON_S)
    account.spend(50, NOON_S)
    assert account.ask().spent == 20


@pytest.mark.parametrize("kind", [each for each in Limit if each < Limit.CONCURRENT_GENERATIONS])
def test_without_access_it_renews_at_the_last_rate_and_never_exceeds_the_limit(
    kind: Limit,
) -> None:
    limit = 1000
    account = Account(kind, limit, NOON_S)
    account.spend(1, NOON_S)
    account.ask()
    account.fail()
    length_s = 60 if kind in (Limit.REQUESTS_PER_MINUTE, Limit.TOKENS_PER_MINUTE) else 3600
    calls = [exhaust(account, NOON_S + second) for second in range(length_s)]
    assert 0 < sum(calls) <= limit
    assert max(calls) <= slice_of(kind, limit) + 1
    later_s = NOON_S + 40 * 86_400
    assert exhaust(account, later_s) > 0


def test_a_limit_that_was_used_up_before_access_went_away_comes_back() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    account.ask()
    account.answer(Grant(0, 0.0, 30.0), NOON_S)
    account.refusal_s(NOON_S)
    account.ask()
    account.fail()
    assert account.refusal_s(NOON_S + 1) is not None
    assert account.refusal_s(NOON_S + 61) is None


def test_a_slice_that_lapses_returns_and_the_account_is_forgotten() -> None:
    account = Account(Limit.REQUESTS_PER_MINUTE, 1000, NOON_S)
    account.refusal_s(NOON_S)
    account.ask()
    account.answer(Grant(100, 10.0, 0.0), NOON_S)
    assert not account.is_idle(NOON_S + 9)
    assert account.is_idle(NOON_S + 11)


def test_shares_of_concurrent_generations() -> None:
    share, service = ShareAccount(8), Service(Limit.CONCURRENT_GENERATIONS, 8)
    began = 0
    while share.refusal_s(NOON_S) is None:
        share.running += 1
        began += 1
    assert began == 4  # until it has asked, another gateway may hold the other half
    assert share.needs_renewal(NOON_S)
    ask = share.ask()
    share.answer(service.lease("a", ask.spent, ask.wanted, NOON_S), NOON_S)
    while share.refusal_s(NOON_S) is None:
        share.running += 1
    assert 4 < share.running <= 8


def test_without_access_the_last_share_goes_on_and_is_never_nothing() -> None:
    share = ShareAccount(8)
    share.ask()
    share.answer(Grant(3, 10.0, 0.0), NOON_S)
    share.ask()
    share.fail()
    assert share.share == 3
    share.ask()
    share.answer(Grant(0, 0.0, 1.0), NOON_S)
    assert share.share == 0
    share.ask()
    share.fail()
    assert share.share == 4
