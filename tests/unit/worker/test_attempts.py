"""How attempts end, and what is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh_shared.errors import InvalidArgument, ServiceUnavailable
from mlxmesh_worker.attempts import Attempts
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.telemetry import WorkerTelemetry
from mlxmesh_worker.work import (
    Assignment,
    AttemptFailed,
    AttemptKey,
    Fault,
    Kind,
    Reports,
    Stop,
)

KEY = AttemptKey("job-1", 1)
SECRET = "the prompt"


class ScriptedRunner:
    """Does what the test says, and notes why it was stopped."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.error: Exception | None = None
        self.result = pb.AttemptResult(generation=pb.GenerationEnd(messages=3))
        self.began: list[AttemptKey] = []
        self.stops: list[Stop | None] = []

    async def run(self, assignment: Assignment, reports: Reports) -> pb.AttemptResult:
        self.began.append(assignment.key)
        try:
            reports.progress(done=1, total=2)
            await self.may_end.wait()
            reports.progress(done=2, total=2)
        except asyncio.CancelledError:
            self.stops.append(reports.stop)
            raise
        if self.error is not None:
            raise self.error
        return self.result


class Rig:
    def __init__(self, slots: int = 2) -> None:
        self.runner, self.outbox, self.telemetry = ScriptedRunner(), Outbox(), WorkerTelemetry()
        self.attempts = Attempts(
            slots=slots,
            runners={Kind.GENERATION: self.runner},
            outbox=self.outbox,
            telemetry=self.telemetry,
        )

    def start(self, key: AttemptKey = KEY, timeout_s: float | None = None) -> None:
        self.attempts.start(
            Assignment(key=key, kind=Kind.GENERATION, timeout_s=timeout_s, message=None)
        )

    async def ended(self) -> list[pb.AttemptUpdate]:
        """What was told, once nothing runs."""
        async with asyncio.timeout(30):
            while self.attempts.running:
                await asyncio.sleep(0)
        return self.outbox.take(1)

    def counted(self) -> dict[str, int]:
        return {outcome: count for (_, outcome), count in self.telemetry.attempts.items()}


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_a_result_follows_the_last_progress(rig: Rig) -> None:
    rig.start()
    assert (rig.attempts.running, rig.attempts.free_slots) == (1, 1)
    assert rig.telemetry.running() == {"generation": 1}
    rig.runner.may_end.set()
    told = await rig.ended()
    assert [each.WhichOneof("news") for each in told] == ["progress", "progress", "result"]
    assert [each.progress.fraction for each in told[:2]] == [0.5, 1]
    assert rig.attempts.held == {KEY}, "its end is not confirmed"
    rig.outbox.confirm(1)
    assert not rig.attempts.held
    assert rig.counted() == {"completed": 1}


@pytest.mark.parametrize(
    ("error", "reason", "fault"),
    [
        (InvalidArgument("no"), "INVALID_FIELD", Fault.JOB),
        (ServiceUnavailable("no"), "SERVICE_UNAVAILABLE", Fault.SERVICE_UNAVAILABLE),
        (AttemptFailed(InvalidArgument("no"), fault=Fault.TRANSIENT), "INVALID_FIELD", Fault(2)),
        (ValueError(SECRET), "INTERNAL", Fault.TRANSIENT),
    ],
)
async def test_an_error_is_a_failure(rig: Rig, error: Exception, reason: str, fault: Fault) -> None:
    rig.start()
    rig.runner.error = error
    rig.runner.may_end.set()
    (*_, told) = await rig.ended()
    assert (told.failure.failure.reason, told.failure.fault) == (reason, fault)
    assert SECRET not in str(told)
    assert rig.counted() == {"failed": 1}


async def test_a_result_that_fits_into_no_message_is_a_failure(rig: Rig) -> None:
    """Else it would be sent, and break the stream of all attempts, again and again."""
    rig.start()
    rig.runner.result.request.body_json = "x" * (12 * 2**20)
    rig.runner.may_end.set()
    (*_, told) = await rig.ended()
    assert (told.failure.failure.reason, told.failure.fault) == ("OUTPUT_TOO_LARGE", Fault.JOB)


async def test_a_cancelled_attempt_has_stopped(rig: Rig) -> None:
    rig.start()
    await asyncio.sleep(0)
    rig.attempts.cancel(KEY)
    (*_, told) = await rig.ended()
    assert told.HasField("stopped")
    assert rig.runner.stops == [Stop.CANCELLED]
    assert rig.counted() == {"cancelled": 1}


async def test_an_attempt_that_is_cancelled_before_it_began_has_stopped_too(rig: Rig) -> None:
    rig.start()
    rig.attempts.cancel(KEY)
    (told,) = await rig.ended()
    assert told.HasField("stopped")
    assert not rig.runner.began
    assert rig.attempts.free_slots == 2


async def test_an_attempt_that_takes_too_long_fails(rig: Rig) -> None:
    rig.start(timeout_s=0.01)
    (*_, told) = await rig.ended()
    assert (told.failure.failure.reason, told.failure.fault) == ("DEADLINE_EXCEEDED", Fault.TIMEOUT)
    assert rig.runner.stops == [Stop.TIMEOUT]
    assert rig.counted() == {"timeout": 1}


@pytest.mark.parametrize("stop", [Stop.CANCELLED, Stop.TIMEOUT])
async def test_a_worker_whose_lease_is_over_ends_no_work(rig: Rig, stop: Stop) -> None:
    """It may have been frozen: the newer attempt has the work by now."""
    rig.start(timeout_s=0.01 if stop is Stop.TIMEOUT else None)
    await asyncio.sleep(0)
    rig.attempts.is_lost = lambda: True
    if stop is Stop.CANCELLED:
        rig.attempts.cancel(KEY)
    told = await rig.ended()
    assert rig.runner.stops == [Stop.FENCED]
    assert [each.WhichOneof("news") for each in told] == ["progress"]


async def test_a_dropped_attempt_says_nothing_more(rig: Rig) -> None:
    rig.start()
    await asyncio.sleep(0)
    rig.attempts.drop([KEY])
    assert await rig.ended() == []
    await asyncio.sleep(0)
    assert rig.runner.stops == [Stop.FENCED]
    assert not rig.attempts.held
    await rig.attempts.close()
    assert rig.counted() == {"fenced": 1}


async def test_a_later_attempt_of_a_job_drops_the_earlier_one(rig: Rig) -> None:
    rig.start()
    rig.start()
    await asyncio.sleep(0)
    later = AttemptKey("job-1", 2)
    rig.start(later)
    assert rig.attempts.running == 1
    rig.runner.may_end.set()
    told = await rig.ended()
    assert {each.id.attempt for each in told} == {2}
    assert rig.runner.began == [KEY, later]


async def test_what_does_not_end_in_time_is_given_back(rig: Rig) -> None:
    rig.start()
    await asyncio.sleep(0)
    await rig.attempts.leave(0.01)
    (*_, told) = await rig.ended()
    assert told.HasField("stopped")
    assert rig.runner.stops == [Stop.LEAVING]
    assert rig.counted() == {"leaving": 1}


def test_reasons_that_end_the_work_at_a_back_end() -> None:
    ends: dict[Any, bool] = {each: each.ends_work for each in Stop}
    assert ends == {
        Stop.CANCELLED: True,
        Stop.TIMEOUT: True,
        Stop.LEAVING: False,
        Stop.FENCED: False,
    }
