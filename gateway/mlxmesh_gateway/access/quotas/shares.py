"""How many generations of one subject may run at this gateway. Pure."""

from __future__ import annotations

from mlxmesh_gateway.access.policies import Limit
from mlxmesh_gateway.access.quotas.account import (
    MIN_RETRY_S,
    RENEW_AT,
    SHORT_VALID_S,
    Ask,
    Grant,
)


class ShareAccount:
    """How many generations of one subject may run here at one time."""

    def __init__(self, limit: int) -> None:
        self.kind = Limit.CONCURRENT_GENERATIONS
        self.limit = limit
        self.running = 0
        self._share: int | None = None
        """None before it is known."""
        self._until_s = 0.0
        self._retry_s = 0.0
        self._refused = 0
        """Calls that were refused since the last question."""
        self._is_asking = False
        self._is_changed = False
        """Whether the limit has changed since the last question."""

    @property
    def share(self) -> int:
        """While it is not known, half of the limit; and one call may always run somewhere."""
        unknown = max(1, self.limit // 2)
        return unknown if self._share is None else min(self._share, self.limit)

    def refusal_s(self, now_s: float) -> float | None:
        """None if a generation may begin, else in how many seconds to try again."""
        if self.running < self.share:
            return None
        self._refused += 1
        return max(MIN_RETRY_S, self._retry_s - now_s)

    def change_limit(self, limit: int, now_s: float) -> None:
        """The limit was set anew: asks at once for a share of it."""
        self.limit = limit
        self._is_changed = True
        self._retry_s = min(self._retry_s, now_s)

    def explain(self, now_s: float) -> str:
        """Why a generation may not begin."""
        return "is used up"

    def is_pending(self, now_s: float) -> bool:
        """Whether an answer that is on its way may let a call in: nobody waits for shares."""
        return False

    def needs_renewal(self, now_s: float) -> bool:
        """Whether the access service should be asked now."""
        if self._is_asking:
            return False
        if self._is_changed:
            return True
        if now_s < self._retry_s:
            return False
        is_low = self.running + 1 >= self.share and self.share < self.limit
        return bool(self._refused) or (self.running > 0 and (is_low or now_s >= self._until_s))

    def is_idle(self, now_s: float) -> bool:
        """Whether it can be forgotten."""
        is_used = self.running or self._refused or self._is_asking or self._is_changed
        return not is_used and now_s >= self._until_s

    def ask(self) -> Ask:
        """Begins a question: for what runs, and some more."""
        wanted = self.running + self._refused + max(2, self.running // 2)
        self._is_asking, self._is_changed, self._refused = True, False, 0
        return Ask(self.running, min(self.limit, wanted))

    def answer(self, grant: Grant, now_s: float) -> None:
        """Ends a question."""
        self._is_asking = False
        self._share = grant.granted
        self._until_s = now_s + RENEW_AT * (grant.valid_s or SHORT_VALID_S)
        self._retry_s = now_s + (grant.retry_after_s or MIN_RETRY_S)

    def fail(self) -> None:
        """Ends a question that nobody answered: the last share goes on, if there was any."""
        self._is_asking = False
        if self._share == 0:
            self._share = None
