"""What this gateway may spend of one limit, without asking. Pure.

The access service grants slices, which together never exceed the limit. A gateway asks for the next
slice before it has spent the last one; what it spends meanwhile beyond that is at most one more
slice, and nothing once it has spent the whole limit itself. So N gateways exceed a limit by at most
N slices (a tenth of a limit a minute, a hundredth of one a day or month), and by what calls use
that is not known when they begin. An answer that is lost adds nothing. While the access service
does not answer for longer than a slice is valid, each gateway may spend one more slice for each
such time, but not more than the limit in a window.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from mlxmesh_gateway.access.policies import Limit

MINUTE_S = 60.0
DAY_S = 86_400.0
SHORT_VALID_S, LONG_VALID_S = 10.0, 60.0
"""Of slices that this gateway renews itself while the access service is away."""
RENEW_AT = 0.7
"""The part of a slice's validity after which the next one is asked for."""
REPORT_S = 2.0
"""What was spent is reported after this time, even if nothing more is needed."""
MIN_RETRY_S = 0.1
WINDOW_TOLERANCE_S = 1.0
"""How far a refusal may end before the end of its window, and still mean the whole window."""


class Grant(NamedTuple):
    """What the access service answers."""

    granted: int
    """What may be spent from now on, in place of what was held."""
    valid_s: float
    retry_after_s: float
    """When there will be more; 0 while there is."""


class Ask(NamedTuple):
    """What the access service is asked."""

    spent: int
    wanted: int


def slice_of(kind: Limit, limit: int) -> int:
    """The largest slice that the access service grants."""
    is_short = kind in (Limit.REQUESTS_PER_MINUTE, Limit.TOKENS_PER_MINUTE)
    return max(1, limit // (10 if is_short else 100))


class Account:
    """One limit of one subject, in requests or tokens. Times are Unix times in seconds."""

    def __init__(self, kind: Limit, limit: int, now_s: float) -> None:
        self.kind = kind
        self.limit = limit
        self._balance = 0
        """What is left of the slice; negative for a debt."""
        self._slice = slice_of(kind, limit)
        self._valid_s = SHORT_VALID_S if self._is_short else LONG_VALID_S
        self._until_s = now_s
        self._unreported = 0
        """Spent, and not yet reported; negative after corrections."""
        self._asked = 0
        """What the question that runs reports."""
        self._unreported_since_s = now_s
        self._is_asking = False
        self._is_changed = False
        """Whether the limit was set anew, and no answer has followed."""
        self._is_stale = False
        """Whether the question that runs was asked before that."""
        self._is_away = False
        self._refused_until_s: float | None = None
        """Until when there is no more; None while there is."""
        self._is_wanted = False
        """Whether a call was refused, or admitted, since the last question."""
        self._window: int = _window(kind, now_s)
        self._spent_in_window: int = 0

    @property
    def _is_short(self) -> bool:
        return self.kind in (Limit.REQUESTS_PER_MINUTE, Limit.TOKENS_PER_MINUTE)

    def refusal_s(self, now_s: float) -> float | None:
        """None if a call may begin, else in how many seconds to try again."""
        self._roll(now_s)
        self._is_wanted = True
        if self._balance > self._floor:
            return None
        if self._is_away:
            return max(MIN_RETRY_S, self._renews_s - now_s)
        if self._refused_until_s is not None:
            return max(MIN_RETRY_S, self._refused_until_s - now_s)
        return MIN_RETRY_S

    def is_pending(self, now_s: float) -> bool:
        """Whether only an answer of the access service is missing for a call to begin."""
        if self._is_away or self._balance > self._floor:
            return False
        return self._refused_until_s is None or now_s >= self._refused_until_s

    def explain(self, now_s: float) -> str:
        """Why a call may not begin."""
        if self._is_away:
            return "is spent no faster than its last rate while the access service is away"
        if self._refused_until_s is None or self.is_pending(now_s):
            return "has something left, for which this gateway waits"
        if _window(self.kind, self._refused_until_s + WINDOW_TOLERANCE_S) == self._window:
            return "is used up, except for what other gateways hold"
        return "is used up"

    def change_limit(self, limit: int, now_s: float) -> None:
        """The limit was set anew: forgets what was granted or refused, and asks at once."""
        self.limit = limit
        self._balance = min(0, self._balance)
        self._slice = slice_of(self.kind, limit)
        self._until_s = now_s
        self._refused_until_s = None
        self._is_changed, self._is_stale = True, self._is_asking

    def spend(self, amount: int, now_s: float) -> None:
        """Counts what was spent; a negative amount corrects what was counted too much."""
        self._roll(now_s)
        if amount < 0:  # not more than was counted in this window
            amount = -min(-amount, max(self._spent_in_window, self._unreported, 0))
        elif self._unreported <= 0:
            self._unreported_since_s = now_s
        self._balance -= amount
        self._unreported += amount
        self._spent_in_window += amount

    def needs_renewal(self, now_s: float) -> bool:
        """Whether the access service should be asked now."""
        if self._is_asking:
            return False
        is_late = self._unreported > 0 and now_s >= self._unreported_since_s + REPORT_S
        if self._is_changed or is_late:
            return True
        if self._refused_until_s is not None:
            return self._is_wanted and now_s >= self._refused_until_s
        is_low = 2 * self._balance < self._slice
        is_old = now_s >= self._until_s - (1 - RENEW_AT) * self._valid_s
        return (self._unreported > 0 or self._is_wanted) and (is_low or is_old)

    def is_idle(self, now_s: float) -> bool:
        """Whether it can be forgotten."""
        self._roll_window(now_s)
        counts = self._unreported != 0 or (self._is_short and self._spent_in_window > 0)
        is_used = self._is_asking or self._is_wanted or self._is_changed or counts
        has_lapsed = now_s >= max(self._until_s, self._refused_until_s or 0.0)
        return has_lapsed and not is_used

    def ask(self) -> Ask:
        """Begins a question."""
        self._is_asking = True
        self._is_wanted = False
        self._asked = max(0, self._unreported)
        self._unreported -= self._asked
        return Ask(self._asked, slice_of(self.kind, self.limit))

    def answer(self, grant: Grant, now_s: float) -> None:
        """Ends a question: the slice replaces what was held, less what was spent meanwhile."""
        self._is_asking = self._is_away = False
        self._asked = 0
        if self._is_stale:  # of a limit that has changed meanwhile
            self._is_stale = False
            return
        self._is_changed = False
        self._balance = grant.granted - self._unreported
        if grant.granted:
            self._slice, self._valid_s = grant.granted, grant.valid_s
            self._until_s = now_s + grant.valid_s
            self._refused_until_s = None
        else:
            self._refused_until_s = now_s + max(MIN_RETRY_S, grant.retry_after_s)

    def fail(self) -> None:
        """Ends a question that nobody answered."""
        self._is_asking, self._is_away = False, True
        self._is_changed = self._is_stale = False
        self._unreported += self._asked
        self._asked = 0

    @property
    def _floor(self) -> int:
        """Down to this balance calls may begin: a debt of one slice while more may be granted."""
        is_refused = self._refused_until_s is not None
        is_spent = self._spent_in_window >= self.limit
        is_strict = self._is_away or self._is_changed or is_refused or is_spent
        return 0 if is_strict else -slice_of(self.kind, self.limit)

    @property
    def _renews_s(self) -> float:
        """When a gateway that gets no answers renews its slice itself.

        After a refusal it waits as long as a slice is valid: one lost answer must not undo it.
        """
        if self._refused_until_s is None:
            return self._until_s
        return max(self._until_s, self._refused_until_s + self._valid_s)

    def _roll(self, now_s: float) -> None:
        self._roll_window(now_s)
        if self._is_away:
            if now_s >= self._renews_s:
                self._renew_here(now_s)
        elif self._balance > 0 and now_s >= self._until_s:
            # What was left has returned, but not what was reported and not spent.
            self._balance = max(0, -self._unreported)

    def _roll_window(self, now_s: float) -> None:
        window = _window(self.kind, now_s)
        if window != self._window:
            self._window, self._spent_in_window = window, 0
            self._unreported = max(0, self._unreported)
            self._refused_until_s = None  # a new window, of which nothing is known
            if self._is_away:
                self._balance = max(0, self._balance)  # a debt ends with its window

    def _renew_here(self, now_s: float) -> None:
        """The last slice once more, less a debt; never more than the limit."""
        self._refused_until_s = None
        left = self.limit - self._spent_in_window
        self._balance = min(self._slice, self._slice + self._balance, max(0, left))
        self._until_s = now_s + self._valid_s


def _window(kind: Limit, now_s: float) -> int:
    """The number of the minute, day or month in UTC."""
    if kind is Limit.TOKENS_PER_MONTH:
        date = datetime.fromtimestamp(now_s, UTC)
        return 12 * date.year + date.month
    return int(now_s // (DAY_S if kind is Limit.TOKENS_PER_DAY else MINUTE_S))
