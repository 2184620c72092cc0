"""The accounts of all subjects, and what calls charge to them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator

from mlxmesh_gateway.access.policies import Limit, Limits, Policies, Subject
from mlxmesh_gateway.access.quotas.account import Account, slice_of
from mlxmesh_gateway.access.quotas.shares import ShareAccount
from mlxmesh_gateway.door.convert import is_generation
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.used import Used
from mlxmesh_shared.errors import QuotaExceeded

AccountId = tuple[Subject, Limit]
TOKEN_LIMITS = (Limit.TOKENS_PER_MINUTE, Limit.TOKENS_PER_DAY, Limit.TOKENS_PER_MONTH)
FIRST_ESTIMATE_TOKENS = 100
"""What a call is expected to use before its subject has made any."""
MAX_MEANS = 4096
MAX_WAIT_S = 1.0
"""How long a call waits for a slice that was asked for."""


class QuotaKeeper:
    """Satisfies Quotas."""

    def __init__(
        self, policies: Policies, *, clock: Callable[[], float], on_need: Callable[[], None]
    ) -> None:
        """clock: Unix time in seconds, which never goes back.

        on_need: is called when an account needs a new slice.
        """
        self._policies = policies
        self._clock = clock
        self._on_need = on_need
        self.accounts: dict[AccountId, Account | ShareAccount] = {}
        self.charges: set[Charge] = set()
        """Of calls that run and use tokens."""
        self._mean_tokens: dict[Subject, float] = {}
        self._limits: dict[Subject, Limits] = {}
        """Under which the accounts were opened."""
        self._answered = asyncio.Event()
        """Set, and replaced, when questions have ended."""

    async def check(self, method: str, principal: Principal) -> None:
        if not is_generation(method):
            return
        accounts = list(self._of(principal))
        if self._is_pending(accounts):
            await self._wait(accounts)
        self._check(accounts)

    def charge(self, principal: Principal, used: Used, *, max_tokens: int) -> Charge | None:
        """Charges the begin of a call; None for a principal without quotas.

        used: filled in while the call runs. max_tokens: as of Meter.begin.
        Raises: QuotaExceeded.
        """
        accounts = list(self._of(principal))
        if not accounts:
            return None
        self._check(accounts)
        charge = Charge(self, accounts, used, self._clock)
        charge.begin(self._estimate(principal, accounts, max_tokens))
        if charge.counts_tokens:
            self.charges.add(charge)
            used.on_started = charge.progress
        self.note_needs(accounts)
        return charge

    def charge_attached(self, principal: Principal, used: Used) -> Charge | None:
        """Charges the tokens that are read of a generation that was let in before."""
        accounts = [
            (account_id, account)
            for account_id, account in self._of(principal)
            if account_id[1] in TOKEN_LIMITS
        ]
        return Charge(self, accounts, used, self._clock, learns=False) if accounts else None

    def forget_idle(self) -> None:
        """Removes accounts that nobody uses."""
        now_s = self._clock()
        for account_id, account in list(self.accounts.items()):
            if account.is_idle(now_s):
                del self.accounts[account_id]
        used = {subject for subject, _ in self.accounts}
        self._limits = {one: limits for one, limits in self._limits.items() if one in used}

    def note_policies(self) -> None:
        """Policies have changed: asks anew under quotas that were set, also to the same limits."""
        now_s = self._clock()
        before, self._limits = self._limits, {}
        for (subject, kind), account in list(self.accounts.items()):
            limits = self._limits[subject] = self._policies.limits(subject)
            if limits is before.get(subject):
                continue
            if limit := limits.get(kind):
                account.change_limit(limit, now_s)
            elif isinstance(account, Account) or not account.running:
                del self.accounts[subject, kind]
        self.note_needs(self.accounts.items())

    def note_answers(self) -> None:
        """The access service has answered, or has not: calls that wait go on."""
        self._answered.set()
        self._answered = asyncio.Event()

    def note_needs(self, accounts: Iterable[tuple[AccountId, Account | ShareAccount]]) -> None:
        """Asks for new slices where they are needed."""
        now_s = self._clock()
        if any(account.needs_renewal(now_s) for _, account in accounts):
            self._on_need()

    def note_use(self, principal_subjects: Iterable[Subject], tokens: int) -> None:
        """Learns how much calls use."""
        for subject in principal_subjects:
            if subject not in self._mean_tokens and len(self._mean_tokens) >= MAX_MEANS:
                del self._mean_tokens[next(iter(self._mean_tokens))]
            mean = self._mean_tokens.get(subject, float(tokens))
            self._mean_tokens[subject] = mean + 0.2 * (tokens - mean)

    def _of(self, principal: Principal) -> Iterator[tuple[AccountId, Account | ShareAccount]]:
        for subject in subjects_of(principal):
            limits = self._policies.limits(subject)
            for kind, limit in limits.items():
                account = self.accounts.get((subject, kind))
                if account is None:
                    account = self.accounts[subject, kind] = self._opened(kind, limit)
                    self._limits[subject] = limits
                yield (subject, kind), account

    def _opened(self, kind: Limit, limit: int) -> Account | ShareAccount:
        if kind is Limit.CONCURRENT_GENERATIONS:
            return ShareAccount(limit)
        return Account(kind, limit, self._clock())

    def _is_pending(self, accounts: Iterable[tuple[AccountId, Account | ShareAccount]]) -> bool:
        now_s = self._clock()
        refused = [each for _, each in accounts if each.refusal_s(now_s) is not None]
        return bool(refused) and all(each.is_pending(now_s) for each in refused)

    async def _wait(self, accounts: list[tuple[AccountId, Account | ShareAccount]]) -> None:
        """Waits while only an answer of the access service is missing; not for long."""
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                while self._is_pending(accounts):
                    answered = self._answered
                    self.note_needs(accounts)
                    await answered.wait()
        except TimeoutError:
            return

    def _check(self, accounts: Iterable[tuple[AccountId, Account | ShareAccount]]) -> None:
        now_s = self._clock()
        for (subject, kind), account in accounts:
            delay_s = account.refusal_s(now_s)
            if delay_s is not None:
                self.note_needs([((subject, kind), account)])
                raise QuotaExceeded(
                    f"the quota {kind.title} of {subject} ({account.limit})"
                    f" {account.explain(now_s)}; try again in {math.ceil(delay_s)} s",
                    retry_delay_s=delay_s,
                )

    def _estimate(
        self,
        principal: Principal,
        accounts: Iterable[tuple[AccountId, Account | ShareAccount]],
        max_tokens: int,
    ) -> int:
        for subject in subjects_of(principal):
            if (mean := self._mean_tokens.get(subject)) is not None:
                return round(mean)
        # Of a first call nothing is known. A large guess would use up a small limit at once, here
        # and at the access service.
        slices = [
            slice_of(kind, account.limit) for (_, kind), account in accounts if kind in TOKEN_LIMITS
        ]
        return min([max_tokens or FIRST_ESTIMATE_TOKENS, *slices])


class Charge:
    """What one call was charged; corrected as its tokens become known."""

    def __init__(
        self,
        keeper: QuotaKeeper,
        accounts: list[tuple[AccountId, Account | ShareAccount]],
        used: Used,
        clock: Callable[[], float],
        *,
        learns: bool = True,
    ) -> None:
        """learns: whether what it used tells what calls use."""
        self._learns = learns
        self._used = used
        self._keeper = keeper
        self._accounts = accounts
        self._clock = clock
        self._tokens = [
            account
            for (_, kind), account in accounts
            if isinstance(account, Account) and kind in TOKEN_LIMITS
        ]
        self._charged_tokens = 0

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens of this call count against a quota."""
        return bool(self._tokens)

    def begin(self, estimate_tokens: int) -> None:
        """Charges what the call is expected to use."""
        now_s = self._clock()
        for (_, kind), account in self._accounts:
            if isinstance(account, ShareAccount):
                account.running += 1
            elif kind is Limit.REQUESTS_PER_MINUTE:
                account.spend(1, now_s)
        self._set_tokens(estimate_tokens)

    def progress(self) -> None:
        """Charges what is known by now, where that is more than was expected."""
        used = self._used
        known = used.prompt_tokens + max(used.messages, used.completion_tokens)
        if known > self._charged_tokens:
            self._set_tokens(known)

    def end(self) -> None:
        """Charges what the call has used; it does not run any more."""
        used = self._used
        for _, account in self._accounts:
            if isinstance(account, ShareAccount):
                account.running -= 1
        tokens = used.prompt_tokens + used.completion_tokens
        self._set_tokens(tokens)
        self._keeper.charges.discard(self)
        # Not for calls that failed before they began.
        if self._learns and used.model and not used.repeated:
            self._keeper.note_use({subject for (subject, _), _ in self._accounts}, tokens)
        self._keeper.note_needs(self._accounts)

    def _set_tokens(self, tokens: int) -> None:
        now_s, change = self._clock(), tokens - self._charged_tokens
        self._charged_tokens = tokens
        for account in self._tokens:
            account.spend(change, now_s)


def subjects_of(principal: Principal) -> Iterator[Subject]:
    """Whose quotas the calls of a principal count against."""
    if principal.key_id:
        yield Subject("key", principal.key_id)
    if principal.user:
        yield Subject("user", principal.user)
    if principal.team:
        yield Subject("team", principal.team)
