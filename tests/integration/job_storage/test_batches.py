"""Batches and their requests in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mlxmesh_jobs.domain.jobs import AttemptId, JobFilter, Kind, QueueSettings, Stopped
from mlxmesh_jobs.domain.ports import NewRequest
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.domain.states import State
from mlxmesh_shared.errors import IllegalState, JobNotFound
from tests.fakes.new_jobs import BROKEN, USED, claim, completed, failed, new_job, tell
from tests.integration.job_storage.conftest import BATCHES, REQUESTS, Open, Stores


async def begun(stores: Stores, **fields: Any) -> tuple[int, AttemptId]:
    """A batch, and the session of the service that runs it."""
    await stores.jobs.submit([new_job("b", kind=Kind.BATCH, queue="batch", **fields)])
    session = await stores.session("jobs-1")
    [claimed] = await claim(stores.jobs, session, kinds=BATCHES)
    return session, claimed.id


def requests(first: int, last: int) -> list[NewRequest]:
    return [
        NewRequest(number=number, custom_id=f"c{number}", body=b"{%d}" % number)
        for number in range(first, last + 1)
    ]


async def run_all(stores: Stores, worker: int) -> list[str]:
    """Completes what waits; the ids."""
    done: list[str] = []
    while claims := await claim(stores.jobs, worker, 50, kinds=REQUESTS):
        for one in claims:
            await tell(stores.jobs, worker, one.id, completed(one.request, used=USED))
            done.append(one.id.job_id)
    return done


async def test_requests_run_and_are_counted(stores: Stores):
    session, batch = await begun(stores, priority=5, labels={"x": "y"}, deadline_ms=2**50)
    await stores.batches.add_requests(batch, requests(1, 3), read_bytes=100)
    assert await stores.batches.read_bytes("b") == (100, 3)
    await stores.batches.set_total(batch, 3)
    worker = await stores.session()
    claims = await claim(stores.jobs, worker, 2, kinds=REQUESTS)
    assert [(one.id.job_id, one.request, one.queue) for one in claims] == [
        ("b:1", b"{1}", "batch"),
        ("b:2", b"{2}", "batch"),
    ]
    before = await stores.jobs.get("b")
    await tell(stores.jobs, worker, claims[1].id, completed(b"two", used=USED))
    await tell(stores.jobs, worker, claims[0].id, failed(Fault.JOB))
    job = await stores.jobs.get("b")
    assert job.batch is not None
    assert (job.batch.total, job.batch.completed, job.batch.failed) == (3, 1, 1)
    assert (job.batch.prompt_tokens, job.batch.completion_tokens) == (5, 7)
    assert job.sequence > before.sequence
    assert not job.batch.ended
    await run_all(stores, worker)
    items = await stores.batches.items("b", after=0, limit=9)
    assert [(one.number, one.custom_id, one.result, one.failure) for one in items] == [
        (1, "c1", b"", BROKEN),
        (2, "c2", b"two", None),
        (3, "c3", b"{3}", None),
    ]
    assert [one.number for one in await stores.batches.items("b", after=1, limit=1)] == [2]
    [ended] = (await tell(stores.jobs, session, batch, completed())).ended
    assert ended.job.batch is not None
    assert ended.job.batch.ended
    request = await stores.jobs.get("b:1")
    assert (request.kind, request.batch_id, request.number) == (Kind.REQUEST, "b", 1)
    assert (request.custom_id, request.priority, request.labels) == ("c1", 5, {})


async def test_items_skip_requests_that_have_not_ended(stores: Stores):
    _, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 3), read_bytes=1)
    worker = await stores.session()
    claims = await claim(stores.jobs, worker, 2, kinds=REQUESTS)
    await tell(stores.jobs, worker, claims[1].id, completed())
    assert [one.number for one in await stores.batches.items("b", after=0, limit=9)] == [2]


async def test_requests_are_listed_in_their_order_and_only_for_their_batch(stores: Stores):
    _, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 4), read_bytes=1)
    every = await stores.jobs.list(JobFilter(kinds=frozenset(Kind)), before_key=2**62, limit=9)
    assert [job.job_id for job in every] == ["b"]
    page = await stores.jobs.list(JobFilter(batch_id="b"), before_key=1, limit=2)
    assert [job.number for job in page] == [2, 3]


async def test_requests_that_are_repeated_are_stored_once(stores: Stores):
    _, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 3), read_bytes=30)
    await stores.batches.add_requests(batch, requests(1, 5), read_bytes=50)
    assert await stores.batches.read_bytes("b") == (50, 5)
    with pytest.raises(IllegalState):
        await stores.batches.add_requests(batch, requests(7, 8), read_bytes=80)
    assert await stores.batches.read_bytes("b") == (50, 5)
    with pytest.raises(JobNotFound):
        await stores.batches.read_bytes("x")


@pytest.mark.parametrize("end", ["another attempt", "cancelled", "expired"])
async def test_only_the_running_attempt_adds_requests(stores: Stores, end: str):
    session, batch = await begun(stores, deadline_ms=stores.clock() + 1_000)
    if end == "another attempt":
        await tell(stores.jobs, session, batch, Stopped())
        await claim(stores.jobs, session, kinds=BATCHES)
    elif end == "cancelled":
        await stores.jobs.cancel("b")
    else:
        stores.clock.advance(1)
        await stores.jobs.expire()
    with pytest.raises(IllegalState, match="does not run"):
        await stores.batches.add_requests(batch, requests(1, 1), read_bytes=1)
    with pytest.raises(IllegalState, match="does not run"):
        await stores.batches.set_total(batch, 1)
    assert await stores.batches.read_bytes("b") == (0, 0)


async def test_a_batch_limits_how_many_of_its_requests_run(stores: Stores):
    _, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 5), read_bytes=1, max_running=2)
    worker = await stores.session()
    claims = await claim(stores.jobs, worker, 9, kinds=REQUESTS)
    assert len(claims) == 2
    assert await claim(stores.jobs, worker, 9, kinds=REQUESTS) == []
    await tell(stores.jobs, worker, claims[0].id, completed())
    assert len(await claim(stores.jobs, worker, 9, kinds=REQUESTS)) == 1


async def test_a_queue_limits_the_requests_and_not_their_batch(stores: Stores):
    await stores.jobs.set_queue("batch", QueueSettings(max_running=1, max_running_per_principal=1))
    _, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 5), read_bytes=1)
    worker = await stores.session()
    assert len(await claim(stores.jobs, worker, 9, kinds=REQUESTS)) == 1


async def test_a_cancelled_batch_cancels_its_requests(stores: Stores):
    session, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 300), read_bytes=1)
    await stores.batches.set_total(batch, 300)
    worker = await stores.session()
    claims = await claim(stores.jobs, worker, 3, kinds=REQUESTS)
    await tell(stores.jobs, worker, claims[0].id, completed())
    assert (await stores.jobs.cancel("b")).state is State.CANCELLING
    stopping = [one.id for one in claims[1:]]
    assert sorted(await stores.jobs.cancelling(), key=str) == sorted([batch, *stopping], key=str)
    assert await claim(stores.jobs, worker, 9, kinds=REQUESTS) == []
    for id_ in stopping:
        await tell(stores.jobs, worker, id_, Stopped())
    [ended] = (await tell(stores.jobs, session, batch, Stopped())).ended
    assert ended.job.state is State.CANCELLED
    assert ended.job.batch is not None
    counts = ended.job.batch
    assert (counts.completed, counts.cancelled, counts.ended) == (1, 299, True)
    items = await stores.batches.items("b", after=0, limit=300)
    assert {one.failure.reason for one in items if one.failure is not None} == {"CANCELLED"}


@pytest.mark.parametrize("way", ["failed", "expired"])
async def test_a_batch_that_fails_cancels_its_requests(stores: Stores, way: str):
    session, batch = await begun(stores, deadline_ms=stores.clock() + 1_000)
    await stores.batches.add_requests(batch, requests(1, 3), read_bytes=1)
    if way == "failed":
        await tell(stores.jobs, session, batch, failed(Fault.JOB))
    else:
        stores.clock.advance(1)
        assert [one.job.job_id for one in await stores.jobs.expire()] == ["b"]
        assert await stores.jobs.expire() == []
    job = await stores.jobs.get("b")
    assert job.state is State.FAILED
    assert job.batch is not None
    assert job.batch.cancelled == 3


async def test_a_retried_batch_runs_only_what_failed_or_was_cancelled(stores: Stores):
    session, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 4), read_bytes=1)
    await stores.batches.set_total(batch, 4)
    worker = await stores.session()
    claims = await claim(stores.jobs, worker, 2, kinds=REQUESTS)
    await tell(stores.jobs, worker, claims[0].id, completed())
    await tell(stores.jobs, worker, claims[1].id, failed(Fault.JOB))
    await tell(stores.jobs, session, batch, failed(Fault.JOB))
    assert await stores.jobs.prune() == 0
    job = await stores.jobs.retry("b")
    assert job.state is State.WAITING
    job = await stores.jobs.get("b")
    assert job.batch is not None
    assert (job.batch.completed, job.batch.failed, job.batch.cancelled) == (1, 0, 0)
    with pytest.raises(IllegalState):
        await stores.jobs.retry("b:2")
    [claimed] = await claim(stores.jobs, session, kinds=BATCHES)
    assert claimed.id.attempt == 2
    assert await run_all(stores, worker) == ["b:2", "b:3", "b:4"]
    job = await stores.jobs.get("b")
    assert job.batch is not None
    assert job.batch.completed == 4
    assert (await stores.jobs.get("b:2")).failure is None


async def test_a_request_cannot_be_retried_alone(stores: Stores):
    _, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 1), read_bytes=1)
    assert (await stores.jobs.cancel("b:1")).state is State.CANCELLED
    with pytest.raises(IllegalState, match="retry its batch"):
        await stores.jobs.retry("b:1")


async def test_a_batch_is_removed_with_all_that_it_has(stores: Stores):
    _, batch = await begun(stores, retention_s=1)
    await stores.batches.add_requests(batch, requests(1, 1_100), read_bytes=1)
    await stores.jobs.cancel("b")
    worker = await stores.session()
    await stores.jobs.stop_attempts([batch], fault=Fault.TRANSIENT, failure=BROKEN)
    stores.clock.advance(1)
    removed: list[int] = []
    while count := await stores.jobs.prune():
        removed.append(count)
    assert sum(removed) == 1_101
    assert max(removed) <= 501
    for table in ("jobs", "job_contents", "job_attempts", "batches", "lanes"):
        assert await stores.count(table) == 0
    assert await claim(stores.jobs, worker, 9, kinds=REQUESTS) == []


async def test_a_batch_goes_on_in_another_service(stores: Stores, open_stores: Open):
    """Its attempt ends with the session of the service that was lost."""
    session, batch = await begun(stores)
    await stores.batches.add_requests(batch, requests(1, 2), read_bytes=20)
    other = await open_stores()
    await other.jobs.end_session(session, beat=None, fault=Fault.WORKER_LOST, failure=BROKEN)
    again = await other.session("jobs-2")
    [claimed] = await claim(other.jobs, again, kinds=BATCHES)
    assert await other.batches.read_bytes("b") == (20, 2)
    await other.batches.add_requests(claimed.id, requests(3, 3), read_bytes=30)
    with pytest.raises(IllegalState):
        await stores.batches.add_requests(batch, requests(3, 3), read_bytes=30)
    done: Sequence[str] = await run_all(stores, await stores.session())
    assert done == ["b:1", "b:2", "b:3"]
