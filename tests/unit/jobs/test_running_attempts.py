"""Attempts that take too long, and those whose worker does not stop them."""

from __future__ import annotations

import pytest

from mlxmesh_jobs.domain.jobs import AttemptId, Completed, Failed, Progress, Stopped, Update
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.workers.attempts import Attempts, Cause, ends, failed

ONE = AttemptId("j1", 1)


def attempts(*, timeout_ms: int = 0, stall_timeout_s: float | None = 100) -> Attempts:
    made = Attempts(stall_timeout_s=stall_timeout_s, grace_s=10)
    made.begin(ONE, timeout_ms, 0)
    return made


def test_an_attempt_with_news_is_never_overdue() -> None:
    made = attempts()
    for now_s in range(0, 1000, 90):
        made.news(Update(id=ONE, news=Progress(fraction=0.5)), now_s)
        assert made.overdue(now_s + 89) == []


def test_an_attempt_without_news_is_asked_to_stop_once_and_then_ended() -> None:
    made = attempts()
    assert made.overdue(99) == []
    assert made.overdue(100) == [ONE]
    assert made.overdue(101) == []
    assert made.unstopped(109) == []
    assert made.unstopped(110) == [(ONE, Cause.STUCK)]
    made.end(ONE)
    assert made.unstopped(110) == []
    assert ONE not in made


def test_the_worker_has_the_grace_period_to_end_it_at_its_timeout() -> None:
    made = attempts(timeout_ms=5_000)
    assert made.overdue(14) == []
    assert made.overdue(15) == [ONE]
    assert made.unstopped(25) == [(ONE, Cause.TIMEOUT)]


def test_batches_may_be_without_news() -> None:
    assert attempts(stall_timeout_s=None).overdue(10**6) == []


@pytest.mark.parametrize(
    ("timeout_ms", "now_s", "fault", "reason"),
    [
        (0, 100, Fault.WORKER_STUCK, "WORKER_STUCK"),
        (5_000, 15, Fault.TIMEOUT, "DEADLINE_EXCEEDED"),
    ],
)
def test_one_that_was_stopped_for_it_has_failed(
    timeout_ms: int, now_s: float, fault: Fault, reason: str
) -> None:
    made = attempts(timeout_ms=timeout_ms)
    made.overdue(now_s)
    stored = made.news(Update(id=ONE, news=Stopped()), now_s + 1)
    assert isinstance(stored.news, Failed)
    assert (stored.news.fault, stored.news.failure.reason) == (fault, reason)


def test_a_result_in_the_meantime_counts() -> None:
    made = attempts()
    made.overdue(100)
    update = Update(id=ONE, news=Completed(result=b"x"))
    assert made.news(update, 101) == update


def test_a_cancelled_one_is_told_once_and_has_its_grace_period() -> None:
    made = attempts()
    assert made.cancel(ONE, 3)
    assert not made.cancel(ONE, 4)
    assert not made.cancel(AttemptId("other", 1), 4)
    assert made.unstopped(12) == []
    assert made.unstopped(13) == [(ONE, Cause.CANCELLED)]
    stopped = Update(id=ONE, news=Stopped())
    assert made.news(stopped, 5) == stopped
    assert made.overdue(1000) == []


def test_a_cancellation_replaces_another_cause() -> None:
    made = attempts()
    made.overdue(100)
    assert not made.cancel(ONE, 105)  # the worker was asked to stop before
    assert made.unstopped(115) == [(ONE, Cause.CANCELLED)]


def test_news_of_others_pass_unchanged() -> None:
    other = Update(id=AttemptId("j2", 1), news=Stopped())
    assert attempts().news(other, 0) == other


def test_what_ends_an_attempt() -> None:
    assert ends(Update(id=ONE, news=failed(Cause.STUCK)))
    assert ends(Update(id=ONE, news=Stopped()))
    assert not ends(Update(id=ONE, news=Progress()))
