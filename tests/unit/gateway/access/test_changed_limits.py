"""Limits that are set anew, spent to the last request, and reported in time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from mlxmesh_gateway.access.policies import Limit, Limits, Policies, PolicyChange, Subject
from mlxmesh_gateway.access.quotas.account import REPORT_S, Account, Ask, Grant
from mlxmesh_gateway.access.quotas.keeper import QuotaKeeper
from mlxmesh_gateway.access.quotas.renewer import QuotaRenewer
from mlxmesh_gateway.access.quotas.shares import ShareAccount
from mlxmesh_gateway.door.principal import Kind, Principal
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import MeshError, QuotaExceeded, ServiceUnavailable
from mlxmesh_shared.tls.identity import Role

from .test_accounts import NOON_S, Service, renew

EVE = Subject("user", "eve")
GENERATE = "/mlxmesh.generation.v1.GenerationService/Complete"
CALLER = Principal(kind=Kind.KEY, identity="eve", role=Role.ROLE_CLIENT, host="", user="eve")


class Mesh:
    """A keeper and its renewer, over the access service's arithmetic."""

    def __init__(self) -> None:
        self.now_s = NOON_S
        self.policies = Policies()
        self.services: dict[Limit, Service] = {}
        self.error: MeshError | None = None
        self._leasing = 0
        self._renewer = QuotaRenewer(self._lease, clock=lambda: self.now_s)
        self.keeper = QuotaKeeper(
            self.policies, clock=lambda: self.now_s, on_need=self._renewer.need
        )

    def set_quota(self, limits: Limits) -> None:
        for kind, limit in limits.items():
            self.services.setdefault(kind, Service(kind, limit)).limit = limit
        change = PolicyChange(revision=self.policies.revision + 1, quotas={EVE: limits})
        self.policies.apply(change)
        self.keeper.note_policies()

    async def run(self) -> None:
        await self._renewer.run(self.keeper)

    async def close(self) -> None:
        await self._renewer.close(self.keeper)

    async def call(self, tokens: int = 0, max_tokens: int = 0) -> None:
        await self.keeper.check(GENERATE, CALLER)
        used = Used(model="pocket")
        charge = self.keeper.charge(CALLER, used, max_tokens=max_tokens)
        assert charge is not None
        used.completion_tokens = tokens
        charge.end()

    async def calls(self, number: int, tokens: int = 0) -> int:
        """Calls until one is refused; how many were served."""
        for served in range(number):
            try:
                await self.call(tokens)
            except QuotaExceeded:
                return served
        return number

    async def settled(self) -> None:
        """Returns once the gateway has asked for nothing for a while."""
        quiet = 0
        while quiet < 20:
            await asyncio.sleep(0.005)
            quiet = 0 if self._leasing else quiet + 1

    async def _lease(self, asks: Sequence[tuple[Subject, Limit, Ask]]) -> Sequence[Grant]:
        self._leasing += 1
        try:
            await asyncio.sleep(0.005)
        finally:
            self._leasing -= 1
        if self.error is not None:
            raise self.error
        return [
            self.services[kind].lease("g", ask.spent, ask.wanted, self.now_s)
            for _, kind, ask in asks
        ]


@pytest.fixture
async def mesh():
    mesh = Mesh()
    task = asyncio.create_task(mesh.run())
    yield mesh
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("limit", [1, 3, 10, 25, 100])
async def test_one_gateway_serves_as_many_requests_as_the_limit_says(
    mesh: Mesh, limit: int
) -> None:
    mesh.set_quota({Limit.REQUESTS_PER_MINUTE: limit})
    assert await mesh.calls(limit + 20) == limit
    with pytest.raises(QuotaExceeded, match="is used up; try again in 60 s") as refused:
        await mesh.call()
    assert refused.value.retry_delay_s == pytest.approx(60)
    mesh.now_s += 60
    assert await mesh.calls(limit + 20) == limit


async def test_small_slices_are_waited_for_and_no_call_is_refused_while_something_is_left(
    mesh: Mesh,
) -> None:
    mesh.set_quota({Limit.TOKENS_PER_DAY: 200})  # in slices of 2
    assert await mesh.calls(100, tokens=20) == 10


async def test_a_raised_limit_counts_from_the_next_call(mesh: Mesh) -> None:
    mesh.set_quota({Limit.TOKENS_PER_DAY: 50})
    assert await mesh.calls(100, tokens=10) == 5
    mesh.set_quota({Limit.TOKENS_PER_DAY: 100})
    assert await mesh.calls(100, tokens=10) == 5


async def test_a_lowered_limit_counts_from_the_next_call(mesh: Mesh) -> None:
    mesh.set_quota({Limit.TOKENS_PER_DAY: 5000})
    assert await mesh.calls(2, tokens=10) == 2
    await mesh.settled()
    mesh.set_quota({Limit.TOKENS_PER_DAY: 5})
    assert await mesh.calls(3, tokens=10) == 0


async def test_a_quota_that_was_removed_and_set_again_begins_anew(mesh: Mesh) -> None:
    mesh.set_quota({Limit.TOKENS_PER_DAY: 50})
    assert await mesh.calls(100, tokens=10) == 5
    mesh.set_quota({})
    assert mesh.keeper.accounts == {}
    mesh.services.clear()  # as the access service forgets what was used
    mesh.set_quota({Limit.TOKENS_PER_DAY: 50})
    assert await mesh.calls(100, tokens=10) == 5


async def test_a_quota_that_was_removed_and_set_within_one_change_is_asked_for_anew(
    mesh: Mesh,
) -> None:
    mesh.set_quota({Limit.TOKENS_PER_DAY: 50})
    assert await mesh.calls(100, tokens=10) == 5
    mesh.services.clear()
    mesh.set_quota({Limit.TOKENS_PER_DAY: 50})
    assert await mesh.calls(100, tokens=10) == 5


async def test_a_gateway_that_ends_returns_what_it_held_and_reports_the_rest(mesh: Mesh) -> None:
    mesh.set_quota({Limit.REQUESTS_PER_MINUTE: 30})
    assert await mesh.calls(2) == 2
    await mesh.settled()
    assert await mesh.calls(1) == 1
    await mesh.close()
    service = mesh.services[Limit.REQUESTS_PER_MINUTE]
    granted = [service.lease("other", 3 * (number > 0), 3, NOON_S).granted for number in range(10)]
    assert granted == [3] * 9 + [0]


async def test_a_gateway_ends_while_access_is_away(mesh: Mesh) -> None:
    mesh.set_quota({Limit.REQUESTS_PER_MINUTE: 30})
    await mesh.call()
    mesh.error = ServiceUnavailable("away")
    await mesh.close()


async def test_a_call_does_not_wait_for_an_access_service_that_is_away(mesh: Mesh) -> None:
    mesh.set_quota({Limit.REQUESTS_PER_MINUTE: 10})
    mesh.error = ServiceUnavailable("away")
    served = await mesh.calls(10)
    assert 1 <= served <= 2
    with pytest.raises(QuotaExceeded, match="no faster than its last rate"):
        await mesh.call()


async def test_the_guess_for_a_first_call_does_not_use_up_a_small_limit(mesh: Mesh) -> None:
    mesh.set_quota({Limit.TOKENS_PER_MINUTE: 200})
    await mesh.call(tokens=20, max_tokens=4096)
    await mesh.settled()
    assert await mesh.calls(100, tokens=20) == 9


def test_an_answer_under_the_old_limit_is_ignored() -> None:
    account = Account(Limit.TOKENS_PER_DAY, 5000, NOON_S)
    account.spend(10, NOON_S)
    account.ask()
    account.change_limit(5, NOON_S)
    account.answer(Grant(50, 60.0, 0.0), NOON_S)
    assert account.refusal_s(NOON_S) is not None
    assert account.is_pending(NOON_S)
    assert account.needs_renewal(NOON_S)
    assert account.ask() == Ask(spent=0, wanted=1)
    account.answer(Grant(0, 0.0, 3600.0), NOON_S)
    assert account.refusal_s(NOON_S) == pytest.approx(3600)
    assert not account.is_pending(NOON_S)


@pytest.mark.parametrize("is_refused", [False, True])
def test_what_was_spent_is_reported_in_time(is_refused: bool) -> None:
    account = Account(Limit.TOKENS_PER_DAY, 100_000, NOON_S)
    account.spend(1, NOON_S)
    account.ask()
    account.answer(Grant(0, 0.0, 3600.0) if is_refused else Grant(1000, 60.0, 0.0), NOON_S)
    account.spend(5, NOON_S + 1)
    assert not account.needs_renewal(NOON_S + 1)
    assert account.needs_renewal(NOON_S + 1 + REPORT_S)
    assert account.ask().spent == 5


def test_what_is_left_elsewhere_is_not_called_used_up() -> None:
    kind = Limit.REQUESTS_PER_MINUTE
    service, account = Service(kind, 1), Account(kind, 1, NOON_S)
    service.lease("other", 0, 1, NOON_S)
    renew(account, service, NOON_S)
    assert account.refusal_s(NOON_S) == pytest.approx(10)
    assert account.explain(NOON_S) == "is used up, except for what other gateways hold"


def test_what_was_reported_and_not_spent_may_still_be_spent() -> None:
    account = Account(Limit.TOKENS_PER_DAY, 1000, NOON_S)
    account.spend(40, NOON_S)
    account.ask()
    account.answer(Grant(0, 0.0, 3600.0), NOON_S)
    account.spend(-30, NOON_S)
    assert not account.is_idle(NOON_S + 600)
    assert account.refusal_s(NOON_S + 600) is None
    account.spend(30, NOON_S + 600)
    assert account.refusal_s(NOON_S + 600) is not None


def test_a_correction_after_a_window_has_ended_gives_nothing_to_the_next() -> None:
    account = Account(Limit.TOKENS_PER_MINUTE, 1000, NOON_S)
    account.spend(40, NOON_S)
    account.ask()
    account.answer(Grant(100, 10.0, 0.0), NOON_S)
    account.spend(-30, NOON_S + 60)
    account.spend(5, NOON_S + 60)
    assert account.ask().spent == 5


def test_a_raised_limit_of_concurrent_generations_is_asked_for_at_once() -> None:
    share = ShareAccount(1)
    share.running = 1
    share.ask()
    share.answer(Grant(1, 10.0, 0.0), NOON_S)
    assert not share.needs_renewal(NOON_S)
    share.change_limit(5, NOON_S)
    assert share.needs_renewal(NOON_S)
    assert share.ask().wanted == 3
