"""The checker of jobs finds what it is for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from tests.chaos.jobs.checker import COMPLETED, FAILED, Ended, Kind, check, success_rate
from tests.chaos.jobs.faults import KILL, PAUSE, Fault
from tests.chaos.jobs.figures import recoveries_of
from tests.chaos.jobs.record import Event, Record

DONE = Ended("a", COMPLETED, 2, effect=1)
BEGAN, EFFECT = Event("began", "a", 1, 1.0), Event("effect", "a", 2, 3.0, 1)
JOINED = Event("joined", "a", 2, 2.0)


def kinds(jobs: list[Ended], *events: Event, acknowledged: str = "a") -> list[Kind]:
    found = check(acknowledged, jobs, {"a": events} if events else {})
    return [each.kind for each in found]


def test_a_job_with_one_effect_is_as_promised() -> None:
    assert kinds([DONE], BEGAN, JOINED, EFFECT) == []


def test_an_attempt_that_was_fenced_has_not_acted() -> None:
    assert kinds([DONE], BEGAN, EFFECT, Event("fenced", "a", 1, 4.0)) == []


@pytest.mark.parametrize(
    ("jobs", "events", "expected"),
    [
        ([], (), Kind.LOST),
        ([], (EFFECT,), Kind.LOST),
        ([Ended("a", "RUNNING", 2)], (BEGAN,), Kind.UNENDED),
        ([DONE, DONE], (EFFECT,), Kind.STORED_TWICE),
        ([Ended("a", COMPLETED, 1)], (BEGAN,), Kind.NO_EFFECT),
        ([DONE], (EFFECT, EFFECT), Kind.DOUBLED),
        ([Ended("a", FAILED, 2)], (EFFECT, EFFECT), Kind.DOUBLED),
        ([DONE], (JOINED, BEGAN, EFFECT), Kind.STALE),
        ([Ended("a", COMPLETED, 1)], (BEGAN, EFFECT), Kind.UNKNOWN_ATTEMPT),
        ([Ended("a", COMPLETED, 2, effect=7)], (EFFECT,), Kind.WRONG_RESULT),
    ],
)
def test_each_violation_is_found(
    jobs: list[Ended], events: tuple[Event, ...], expected: Kind
) -> None:
    assert set(kinds(jobs, *events)) == {expected}


def test_an_effect_of_a_job_that_nobody_acknowledged_is_no_violation_if_it_is_there() -> None:
    assert kinds([DONE], EFFECT, acknowledged="") == []


def test_poisoned_jobs_do_not_count() -> None:
    jobs = [DONE, Ended("b", FAILED, 10, "POISONED"), Ended("c", FAILED, 5, "BACK_END_FAILED")]
    assert success_rate(jobs) == 0.5


def test_recovery_is_from_the_kill_to_the_next_begin() -> None:
    kill = Fault(KILL, "worker-0", "w1", at_s=0.5, wall_s=100.0)
    lost = pb.JobAttempt(attempt=1, worker_id="w1", recovery="worker_lost")
    lost.end_time.FromMilliseconds(100_200)
    paused = Fault(PAUSE, "worker-1", "w2", at_s=0.1, wall_s=99.0)
    elsewhere = pb.JobAttempt(attempt=1, worker_id="w2", recovery="worker_lost")
    jobs = [pb.Job(job_id="a", attempts=[lost]), pb.Job(job_id="b", attempts=[lost, elsewhere])]
    [found, never] = recoveries_of(jobs, [kill, paused], {"a": [BEGAN, JOINED, EFFECT]})
    assert (found.seconds, round(found.noticed_s, 3)) == (1.5, 0.2)
    assert never.seconds == math.inf


def test_a_loss_before_the_kill_is_not_of_the_kill() -> None:
    kill = Fault(KILL, "worker-0", "w1", at_s=0.5, wall_s=100.0)
    lost = pb.JobAttempt(attempt=1, worker_id="w1", recovery="worker_lost")
    lost.end_time.FromMilliseconds(99_000)
    assert recoveries_of([pb.Job(job_id="a", attempts=[lost])], [kill], {}) == []


def test_the_record_is_read_as_it_grows(tmp_path: Path) -> None:
    def line(event: str, **more: object) -> str:
        return json.dumps({"event": event, "job_id": "a", "attempt": 1, "at_s": 1.0, **more}) + "\n"

    file = tmp_path / "record"
    effect = line("effect", result={"effect": 4})
    file.write_text(line("began") + effect[:10])
    record = Record(file)
    assert [each.event for each in record.read()] == ["began"]
    with file.open("a") as more:
        more.write(effect[10:] + '{"torn\n' + line("fenced"))
    assert [(each.event, each.effect) for each in record.read()] == [("effect", 4), ("fenced", 0)]
    assert record.effects == 1
