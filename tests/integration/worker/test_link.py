"""The stream to jobs services: what goes on when it breaks, and what ends when a lease does."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mlxmesh.job.v1 import worker_pb2
from tests.fakes.job_service import FakeJobService
from tests.fakes.waiting import until
from tests.integration.worker.harness import Rig, running_rig, running_worker
from tests.integration.worker.test_generation import assert_same, until_stored


@pytest.fixture
async def rig(tmp_path: Path, tokenizer_dir: Path) -> AsyncIterator[Rig]:
    async with running_rig(tmp_path, tokenizer_dir) as running:
        yield running


async def test_attempts_go_on_while_another_jobs_service_is_found(rig: Rig) -> None:
    expected = await rig.expected()
    async with AsyncExitStack() as stack:
        first = FakeJobService(rig.jobs, instance_id="jobs-0")
        await rig.registry.deregister(rig.service.instance)
        await stack.enter_async_context(first.running())
        await rig.registry.register(first.instance)
        async with running_worker(rig):
            job = rig.generate()
            await until_stored(job, 20)
            first.confirms.clear()  # some news are sent, and not stored
            await asyncio.sleep(0.1)
            await rig.registry.register(rig.service.instance)
            await stack.aclose()
            await rig.ended(job)
    assert_same(job, expected)
    assert job.attempt == 1
    assert len(rig.jobs.sessions) == 1
    hello = rig.service.messages[0].hello
    assert [(each.job_id, each.attempt) for each in hello.running] == [("job-1", 1)]


async def test_news_whose_confirmation_was_lost_are_stored_once(rig: Rig) -> None:
    expected = await rig.expected()
    async with AsyncExitStack() as stack:
        first = FakeJobService(rig.jobs, instance_id="jobs-0")
        await rig.registry.deregister(rig.service.instance)
        await stack.enter_async_context(first.running())
        await rig.registry.register(first.instance)
        async with running_worker(rig) as worker:
            job = rig.generate()
            await until_stored(job, 20)
            first.confirmed_after_storing = False
            await rig.ended(job)
            await rig.registry.register(rig.service.instance)
            await stack.aclose()
            await until(lambda: rig.service.messages != [] and not worker.attempts.held)
            again = rig.generate("job-2")
            await rig.ended(again)
    assert_same(job, expected)
    assert_same(again, expected)


async def test_a_fenced_attempt_is_dropped_and_its_generation_left_to_the_next(rig: Rig) -> None:
    expected = await rig.expected()
    async with running_worker(rig, "worker-1") as worker:
        job = rig.generate()
        await until_stored(job, 20)
        rig.mesh.engine.may_step.clear()
        session = rig.jobs.sessions[job.session]
        job.session, job.attempt = "someone else", 2
        session.stream.put_nowait(  # pyright: ignore[reportOptionalMemberAccess]
            worker_pb2.WorkResponse(fenced=[worker_pb2.AttemptId(job_id="job-1", attempt=1)])
        )
        await until(lambda: worker.attempts.running == 0)
        assert not rig.mesh.engine.cancels
        job.session, job.state = "", "waiting"
        rig.jobs.waiting.append(job)
        rig.mesh.engine.may_step.set()
        await rig.ended(job)
    assert_same(job, expected)
    assert job.attempt == 3


async def test_an_ended_session_drops_everything_and_a_new_one_begins(rig: Rig) -> None:
    expected = await rig.expected()
    async with running_worker(rig) as worker:
        job = rig.generate()
        await until_stored(job, 20)
        before = worker.link.session
        rig.jobs.end_session(before)
        await rig.ended(job)
        assert worker.link.session != before
    assert_same(job, expected)
    assert len(rig.jobs.sessions) == 2


async def test_a_worker_without_confirmations_stops_itself(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    async with running_rig(tmp_path, tokenizer_dir, lease_s=2, heartbeat_s=0.05) as rig:
        rig.mesh.engine.options.step_s = 0.01
        async with running_worker(rig) as worker:
            job = rig.generate(max_tokens=900)
            await until_stored(job, 5)
            before = worker.link.session
            rig.service.confirms.clear()
            await until(lambda: worker.link.session != before)
            assert worker.attempts.running == 0
            assert not worker.attempts.held
            # The generation is left to the next attempt.
            assert rig.mesh.engine.sequences == 1
            assert not rig.mesh.engine.cancels
            rig.mesh.engine.options.step_s = 0.001
            rig.jobs.end_session(before)
            rig.service.confirms.set()
            await rig.ended(job)
    assert job.attempt == 2
    assert len(job.tokens()) == 900


async def test_a_leaving_worker_gives_back_what_has_not_ended(rig: Rig) -> None:
    expected = await rig.expected(max_tokens=900)
    async with running_worker(rig, stop_grace_s=0.2) as worker:
        job = rig.generate(max_tokens=900)
        await until_stored(job, 20)
        rig.mesh.engine.may_step.clear()
        await worker.leave()
        assert job.stops == 1
        assert rig.jobs.sessions[worker.link.session].leaving
        assert not rig.mesh.engine.cancels, "the generation is left to the next worker"
        other = rig.generate("job-2")
    assert other.attempt == 0
    rig.mesh.engine.may_step.set()
    async with running_worker(rig, "worker-2"):
        await rig.ended(job)
        await rig.ended(other)
    assert_same(job, expected)
    assert job.attempt == 2


async def test_a_leaving_worker_ends_what_fits_into_the_grace(rig: Rig) -> None:
    async with running_worker(rig, stop_grace_s=30) as worker:
        job = rig.generate()
        await until_stored(job, 20)
        await worker.leave()
        assert (job.state, job.attempt) == ("completed", 1)


async def test_no_more_attempts_run_than_there_are_slots(rig: Rig) -> None:
    rig.mesh.engine.options.step_s = 0.002
    most = 0
    async with running_worker(rig, slots=3) as worker:
        jobs = [rig.generate(f"job-{number}", max_tokens=50) for number in range(20)]
        while any(job.state != "completed" for job in jobs):
            most = max(most, worker.attempts.running)
            await asyncio.sleep(0.001)
    assert most == 3
    assert {job.attempt for job in jobs} == {1}


async def test_a_jobs_service_that_is_behind_bounds_what_is_kept(
    tmp_path: Path, tokenizer_dir: Path
) -> None:
    async with running_rig(tmp_path, tokenizer_dir, lease_s=60) as rig:
        async with running_worker(rig, slots=4) as worker:
            jobs = [rig.generate(f"job-{n}", max_tokens=900) for n in range(4)]
            await until(lambda: worker.attempts.running == 4)
            rig.service.confirms.clear()
            await asyncio.sleep(1)
            assert len(worker.outbox) < 100
            rig.service.confirms.set()
            await asyncio.gather(*map(rig.ended, jobs))
        assert {len(job.tokens()) for job in jobs} == {900}


async def test_a_cancellation_of_what_does_not_run_is_answered(rig: Rig) -> None:
    async with running_worker(rig) as worker:
        await until(lambda: rig.jobs.sessions != {})
        job = rig.generate("job-1")
        await rig.ended(job)
        await until(lambda: not worker.attempts.held)
        job.session, job.state = worker.link.session, "running"
        rig.jobs.cancel("job-1")
        await rig.ended(job, "cancelled")
    assert job.stops == 1
