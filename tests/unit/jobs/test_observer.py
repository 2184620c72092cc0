"""Which events are published, and how many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from google.protobuf.message import Message

from mlxmesh_jobs.domain.jobs import (
    Ended,
    FailureFacts,
    Job,
    Kind,
    Owner,
    QueueCounts,
    QueueSettings,
)
from mlxmesh_jobs.domain.recovery import Counts, RetryPolicy
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.observer import JobObserver
from mlxmesh_jobs.telemetry import MAX_QUEUES, JobTelemetry

FAILURE = FailureFacts(code=14, reason="ENGINE_LOST", message="it was lost")
JOB = Job(
    key=1,
    job_id="j1",
    kind=Kind.GENERATION,
    queue="generation",
    connector="",
    owner=Owner(owner="#", principal="p", share="p"),
    state=State.COMPLETED,
    priority=0,
    created_ms=1_000,
    not_before_ms=0,
    deadline_ms=0,
    started_ms=2_000,
    ended_ms=5_000,
    expires_ms=0,
    ready_ms=0,
    attempt=2,
    counts=Counts(),
    retry=RetryPolicy(),
    attempt_timeout_s=0,
    sequence=3,
    outputs=0,
    cost=0,
    summary="",
)


class Rig:
    """An observer, its events and its clock."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.now_s = 0.0
        telemetry = JobTelemetry(workers=lambda: 0, clock=lambda: 10_000)
        self.observer = JobObserver(self._publish, telemetry, clock=lambda: self.now_s)

    def _publish(self, payload: Message, correlation_id: str = "") -> None:
        self.events.append(payload)

    @property
    def names(self) -> list[str]:
        return [each.DESCRIPTOR.name for each in self.events]


def test_the_end_of_a_job_is_published_with_its_duration() -> None:
    rig = Rig()
    rig.observer.ended([Ended(job=JOB)])
    assert rig.names == ["JobCompleted"]
    assert rig.events[0].duration_ms == 4_000


def test_failed_attempts_are_published_once_a_second_for_each_queue() -> None:
    rig = Rig()
    waiting = replace(JOB, state=State.DELAYED)
    attempt = Ended(job=waiting, recovery="retry", delay_ms=100, failure=FAILURE)
    other = Ended(job=replace(waiting, queue="night"), recovery="retry", delay_ms=1)
    rig.observer.ended([attempt, attempt, other])
    assert rig.names == ["JobAttemptFailed"] * 2
    rig.now_s = 1.0
    rig.observer.ended([attempt])
    assert (rig.events[-1].recovery, rig.events[-1].failure.reason) == ("retry", "ENGINE_LOST")
    assert len(rig.events) == 3


def test_of_requests_of_batches_only_failures_are_published() -> None:
    rig = Rig()
    request = replace(JOB, kind=Kind.REQUEST)
    failed = replace(request, state=State.FAILED, failure=FAILURE)
    for job in (request, replace(request, state=State.CANCELLED), failed, failed):
        rig.observer.ended([Ended(job=job)])
    assert rig.names == ["JobFailed"]


def test_an_attempt_that_was_given_back_is_no_failure() -> None:
    rig = Rig()
    rig.observer.ended([Ended(job=replace(JOB, state=State.WAITING))])
    assert rig.events == []


def test_queues_that_are_blocked_are_told_once_and_again_when_they_are_not() -> None:
    rig = Rig()
    queue = QueueCounts(name="q", settings=QueueSettings(), waiting=3)
    for blocked in ({"q": ""}, {"q": "it is paused"}, {"q": "it is full"}, {"q": ""}, {}):
        rig.observer.queues_seen([queue], blocked)
    assert rig.names == ["QueueBlocked", "QueueUnblocked"]
    assert (rig.events[0].reason, rig.events[0].waiting) == ("it is paused", 3)


def test_callers_cannot_make_any_number_of_series() -> None:
    telemetry = JobTelemetry(workers=lambda: 0, clock=lambda: 0)
    for number in range(MAX_QUEUES + 5):
        telemetry.ended(replace(JOB, queue=f"q{number}"))
    labels = {dict(each)["mlxmesh.job.queue"]: count for count, each in telemetry.read_jobs()}
    assert len(labels) == MAX_QUEUES + 1
    assert labels["other"] == 5
