"""How much of a limit a gateway gets to spend without asking: decisions without I/O.

A slice counts as spent while a gateway holds it, so what all gateways hold and have spent together
never exceeds the limit. A gateway reports what it has spent of a slice when it asks for the next
one. A slice counts for REPORT_GRACE_MS longer than the gateway may spend it, so that the report of
a gateway that lives is never late; only what a gateway has spent and never reports, because it was
killed, can exceed a limit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mlxmesh_access.clock import MINUTE_MS
from mlxmesh_access.quotas.models import LimitKind
from mlxmesh_access.quotas.windows import Window, window_of

MINUTE_SLICES = 10
"""A slice of a limit a minute is at most this part of it."""
LONG_SLICES = 100
"""A slice of a limit a day or a month is at most this part of it."""
SHORT_VALID_MS = 10_000
"""How long a slice of a limit a minute, and a share of concurrent generations, are valid."""
LONG_VALID_MS = MINUTE_MS
"""How long a slice of a limit a day or a month is valid."""
REPORT_GRACE_MS = MINUTE_MS
SHARE_GRACE_MS = 5_000
"""How long a share of concurrent generations counts beyond its validity."""
MAX_CLOCK_SKEW_MS = MINUTE_MS
"""How far the clocks of access services may differ; a window further ahead was begun by mistake."""
_MIN_RETRY_MS = 100


@dataclass(frozen=True, slots=True)
class Slice:
    """What one gateway holds of a limit."""

    starts_ms: int
    """The beginning of the window to which it belongs."""
    held: int
    wanted: int
    """What the gateway asked for."""
    valid_until_ms: int

    def counts(self, window: Window, grace_ms: int, now_ms: int) -> bool:
        """Whether it may still be spent, or was spent without a report so far."""
        return self.starts_ms == window.starts_ms and now_ms < self.valid_until_ms + grace_ms


@dataclass(frozen=True, slots=True)
class Spending:
    """What is known of the use of one limit."""

    starts_ms: int = 0
    """The beginning of the window in which it was spent."""
    spent: int = 0
    slices: Mapping[str, Slice] = field(default_factory=dict[str, Slice])
    """By the gateway that holds it; those of earlier windows too, until they are reported."""

    def spent_at(self, window: Window) -> int:
        """What was spent in a window."""
        return self.spent if self.starts_ms == window.starts_ms else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a gateway reports and wants."""

    gateway_id: str
    spent: int
    """Since its last request; for concurrent generations, how many run there."""
    wanted: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What a gateway may spend from now on, in place of what it held."""

    granted: int
    valid_ms: int = 0
    retry_after_ms: int = 0
    """When there will be more; 0 while there is."""


def lease(
    kind: LimitKind, limit: int, spending: Spending, request: Request, now_ms: int
) -> tuple[Spending, Grant]:
    """What a gateway gets of a limit, and what is known of its use afterwards."""
    if kind is LimitKind.CONCURRENT_GENERATIONS:
        return _lease_share(limit, spending, request, now_ms)
    if 0 < spending.starts_ms - now_ms <= MAX_CLOCK_SKEW_MS:
        # Another access service, whose clock is ahead, has begun this window. Two that each began
        # their own would forget what was spent in the other one's.
        now_ms = spending.starts_ms
    window = window_of(kind, now_ms)
    spent = spending.spent_at(window) + _counted(spending, request, window)
    others = _without(spending.slices, request.gateway_id)
    counting = [each for each in others.values() if each.counts(window, REPORT_GRACE_MS, now_ms)]
    left = max(0, limit - spent - sum(each.held for each in counting))
    granted = min(request.wanted, slice_size(kind, limit), left)
    valid_ms = min(_valid_ms(kind), window.ends_ms - now_ms)
    slices = others
    if granted:
        held = Slice(window.starts_ms, granted, request.wanted, now_ms + valid_ms)
        slices = {**others, request.gateway_id: held}
    after = Spending(window.starts_ms, spent, slices)
    if granted or not request.wanted:
        return after, Grant(granted, valid_ms if granted else 0)
    return after, Grant(0, 0, _retry_ms(limit - spent, counting, window, now_ms))


def slice_size(kind: LimitKind, limit: int) -> int:
    """The largest slice of a limit; at least 1, so that a small limit can be spent at all."""
    if kind is LimitKind.CONCURRENT_GENERATIONS:
        return limit
    is_short = kind in (LimitKind.REQUESTS_PER_MINUTE, LimitKind.TOKENS_PER_MINUTE)
    return max(1, limit // (MINUTE_SLICES if is_short else LONG_SLICES))


def _valid_ms(kind: LimitKind) -> int:
    is_long = kind in (LimitKind.TOKENS_PER_DAY, LimitKind.TOKENS_PER_MONTH)
    return LONG_VALID_MS if is_long else SHORT_VALID_MS


def _counted(spending: Spending, request: Request, window: Window) -> int:
    """The part of what a gateway reports that counts in a window.

    What it held in an earlier window counted there. What it spent beyond that, for example because
    a generation went on, counts now.
    """
    held = spending.slices.get(request.gateway_id)
    if held is None or held.starts_ms == window.starts_ms:
        return request.spent
    return max(0, request.spent - held.held)


def _without(slices: Mapping[str, Slice], gateway_id: str) -> dict[str, Slice]:
    return {holder: each for holder, each in slices.items() if holder != gateway_id}


def _retry_ms(unspent: int, others: list[Slice], window: Window, now_ms: int) -> int:
    """When to ask again: at the end of the window, or when others should have reported."""
    until_end_ms = window.ends_ms - now_ms
    if unspent <= 0 or not others:
        return until_end_ms
    until_report_ms = min(each.valid_until_ms for each in others) - now_ms
    return min(until_end_ms, max(_MIN_RETRY_MS, until_report_ms))


def _lease_share(
    limit: int, spending: Spending, request: Request, now_ms: int
) -> tuple[Spending, Grant]:
    """A share of concurrent generations.

    A gateway gets what it wants as long as every other one can get what it wants, up to an equal
    share. What runs at another gateway counts until it ends there.
    """
    window = window_of(LimitKind.CONCURRENT_GENERATIONS, now_ms)
    others = {
        holder: each
        for holder, each in _without(spending.slices, request.gateway_id).items()
        if each.counts(window, SHARE_GRACE_MS, now_ms)
    }
    free = max(0, limit - sum(each.held for each in others.values()))
    granted = min(request.wanted, _share(limit, list(others.values())), free)
    held = Slice(
        window.starts_ms, max(granted, request.spent), request.wanted, now_ms + SHORT_VALID_MS
    )
    slices = {**others, request.gateway_id: held} if request.wanted or request.spent else others
    after = replace(spending, slices=slices)
    if granted or not request.wanted:
        return after, Grant(granted, SHORT_VALID_MS if granted else 0)
    until_ms = [each.valid_until_ms - now_ms for each in others.values() if each.held]
    return after, Grant(0, 0, max(_MIN_RETRY_MS, min(until_ms, default=SHORT_VALID_MS)))


def _share(limit: int, others: list[Slice]) -> int:
    """An equal share of a limit, and of what others leave of theirs."""
    fair = max(1, limit // (len(others) + 1))
    reserved = sum(max(each.held, min(each.wanted, fair)) for each in others)
    rest = max(0, limit - reserved - fair)
    hungry = sum(each.wanted > fair for each in others)
    return fair + math.ceil(rest / (hungry + 1))
