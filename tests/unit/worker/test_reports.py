"""What a running attempt sends of its progress."""

import asyncio

import pytest

from mlxmesh_shared.errors import OutputTooLarge
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.reports import AttemptReports
from mlxmesh_worker.work import AttemptKey, Stop

KEY = AttemptKey("job-1", 1)


async def test_the_same_progress_is_sent_once() -> None:
    outbox = Outbox()
    reports = AttemptReports(KEY, outbox)
    for _ in range(3):
        reports.progress(text="waits")
    reports.close()
    reports.progress(text="waits")
    reports.close()
    assert [each.progress.text for each in outbox.take(1)] == ["waits"]


async def test_work_that_only_waits_has_news_again_and_again() -> None:
    outbox = Outbox()
    reports = AttemptReports(KEY, outbox, progress_interval_s=0.01, repeat_interval_s=0.02)
    async with asyncio.timeout(30):
        while len(outbox) < 3:
            reports.progress(text="waits")
            await asyncio.sleep(0.005)
    reports.close()
    assert {each.progress.text for each in outbox.take(1)} == {"waits"}


async def test_nothing_is_repeated_that_nobody_reports() -> None:
    outbox = Outbox()
    reports = AttemptReports(KEY, outbox, progress_interval_s=0.01, repeat_interval_s=0.02)
    reports.progress(text="waits")
    await asyncio.sleep(0.2)
    reports.close()
    assert len(outbox) == 1


async def test_a_stopped_attempt_sends_no_progress() -> None:
    outbox = Outbox()
    reports = AttemptReports(KEY, outbox, repeat_interval_s=0)
    reports.stopped(Stop.CANCELLED)
    reports.progress(text="waits")
    reports.close()
    assert not len(outbox)


async def test_what_the_contract_refuses_is_not_sent() -> None:
    """A refused message is sent again on the next stream, and ends that too."""
    outbox = Outbox()
    reports = AttemptReports(KEY, outbox)
    with pytest.raises(OutputTooLarge, match="65,536"):
        await reports.remember("x" * 65_537)
    reports.progress(fraction=float("nan"), done=-1, total=2**70, unit="u" * 999, text="t" * 9999)
    reports.close()
    (update,) = outbox.take(1)
    progress = update.progress
    assert (progress.fraction, progress.done, progress.total) == (0, 0, 2**63 - 1)
    assert (len(progress.unit), len(progress.text)) == (64, 1000)
