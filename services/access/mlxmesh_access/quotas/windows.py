"""The windows in which quotas are spent: minutes, days and months in UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime

from mlxmesh_access.clock import DAY_MS, MINUTE_MS
from mlxmesh_access.quotas.models import LimitKind


@dataclass(frozen=True, slots=True)
class Window:
    """The time from `starts_ms` up to, but not including, `ends_ms`."""

    starts_ms: int
    ends_ms: int


FOR_EVER = Window(0, 2**62)
"""The window of a limit that has none."""


def window_of(kind: LimitKind, now_ms: int) -> Window:
    """The window of a limit at a time."""
    match kind:
        case LimitKind.REQUESTS_PER_MINUTE | LimitKind.TOKENS_PER_MINUTE:
            return _fixed(now_ms, MINUTE_MS)
        case LimitKind.TOKENS_PER_DAY:
            return _fixed(now_ms, DAY_MS)
        case LimitKind.TOKENS_PER_MONTH:
            return _month(now_ms)
        case LimitKind.CONCURRENT_GENERATIONS:
            return FOR_EVER


def _fixed(now_ms: int, length_ms: int) -> Window:
    starts_ms = now_ms - now_ms % length_ms
    return Window(starts_ms, starts_ms + length_ms)


def _month(now_ms: int) -> Window:
    now = datetime.fromtimestamp(now_ms // 1000, UTC)
    starts = datetime(now.year, now.month, 1, tzinfo=UTC)
    ends = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return Window(round(starts.timestamp()) * 1000, round(ends.timestamp()) * 1000)
