"""Windows of quotas begin and end at full minutes, days and months in UTC."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh_access.quotas.models import LimitKind
from mlxmesh_access.quotas.windows import FOR_EVER, window_of

TIMES_MS = st.integers(min_value=0, max_value=4_000_000_000_000)
WINDOWED = [kind for kind in LimitKind if kind is not LimitKind.CONCURRENT_GENERATIONS]


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("kind", "starts", "ends"),
    [
        (LimitKind.REQUESTS_PER_MINUTE, "2028-02-29 23:59", "2028-03-01 00:00"),
        (LimitKind.TOKENS_PER_MINUTE, "2028-02-29 23:59", "2028-03-01 00:00"),
        (LimitKind.TOKENS_PER_DAY, "2028-02-29", "2028-03-01"),
        (LimitKind.TOKENS_PER_MONTH, "2028-02-01", "2028-03-01"),
    ],
)
def test_the_end_of_a_leap_february(kind: LimitKind, starts: str, ends: str) -> None:
    window = window_of(kind, ms("2028-02-29 23:59:30"))
    assert (window.starts_ms, window.ends_ms) == (ms(starts), ms(ends))


def test_a_december_ends_with_its_year() -> None:
    window = window_of(LimitKind.TOKENS_PER_MONTH, ms("2026-12-31 12:00"))
    assert (window.starts_ms, window.ends_ms) == (ms("2026-12-01"), ms("2027-01-01"))


def test_concurrency_has_no_window() -> None:
    assert window_of(LimitKind.CONCURRENT_GENERATIONS, ms("2026-12-31")) == FOR_EVER


@given(kind=st.sampled_from(WINDOWED), now_ms=TIMES_MS)
def test_windows_follow_each_other_without_a_gap(kind: LimitKind, now_ms: int) -> None:
    window = window_of(kind, now_ms)
    assert window.starts_ms <= now_ms < window.ends_ms
    assert window_of(kind, window.starts_ms) == window
    assert window_of(kind, window.ends_ms - 1) == window
    assert window_of(kind, window.ends_ms).starts_ms == window.ends_ms
