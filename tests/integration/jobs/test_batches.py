"""Batches on both kinds of database: from an input file to the files of results and of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from mlxmesh_jobs.batches.reading import read_batch
from mlxmesh_jobs.domain.jobs import Completed, Failed, Kind, Update
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.domain.states import State
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.sql.urls import DatabaseUrl
from tests.fakes.batch_rig import FAILURE, BatchRig, answer, batch_rig, collected, line

TIMEOUT_S = 60


@pytest.fixture
async def rig(database: DatabaseUrl) -> AsyncGenerator[BatchRig]:
    async with batch_rig(database) as made:
        yield made


def requests(number: int, **bodies: dict[str, Any]) -> list[bytes]:
    return [line(f"c-{n}", id=f"c-{n}", **bodies.get(f"c{n}", {})) for n in range(1, number + 1)]


async def run(rig: BatchRig, lines: list[bytes], batch_id: str = "b") -> Completed | Failed:
    await rig.submit(batch_id, await rig.add_file(lines))
    async with asyncio.timeout(TIMEOUT_S), rig.working():
        return await rig.run_batch("jobs-1")


async def test_results_and_errors_are_in_files_in_the_order_of_the_input(rig: BatchRig) -> None:
    lines = requests(1_201, c3={"fails": True}, c700={"refused": True})

    news = await run(rig, lines)

    assert isinstance(news, Completed)
    job = await rig.jobs.get("b")
    assert (job.state, job.batch and job.batch.total) == (State.COMPLETED, 1_201)
    result = await rig.result("b")
    good = await rig.lines(result.output_file_id)
    bad = await rig.lines(result.error_file_id)
    wanted = [f"c-{n}" for n in range(1, 1_202)]
    assert [one["custom_id"] for one in good] == [
        one for one in wanted if one not in ("c-3", "c-700")
    ]
    assert [one["response"]["body"]["id"] for one in good] == [one["custom_id"] for one in good]
    assert [one["custom_id"] for one in bad] == ["c-3", "c-700"]
    assert bad[0]["error"] == {"code": "invalid_field", "message": "it cannot be done"}
    assert bad[1]["response"]["status_code"] == 400
    assert job.batch is not None
    assert (job.batch.completed, job.batch.failed) == (1_199, 2)
    file = await rig.files.get(result.output_file_id)
    assert (file.name, file.job_id, file.complete) == ("b_output.jsonl", "b", True)
    assert file.owner.principal == rig.owner.principal


async def test_a_file_that_would_be_empty_is_not_made(rig: BatchRig) -> None:
    await run(rig, requests(2))

    result = await rig.result("b")

    assert result.output_file_id
    assert not result.error_file_id


async def test_an_invalid_file_fails_with_its_lines_and_runs_nothing(rig: BatchRig) -> None:
    lines = [*requests(2), b"{\n", line("c-1"), b'{"custom_id": "x"}']

    news = await run(rig, lines)

    assert isinstance(news, Failed)
    assert "line 3" in news.failure.message
    job = await rig.jobs.get("b")
    assert (job.state, job.batch and job.batch.total) == (State.FAILED, 0)
    found = [(one.line, one.code) for one in (await rig.result("b")).errors]
    assert found == [
        (3, "invalid_json_line"),
        (4, "duplicate_custom_id"),
        (5, "missing_required_parameter"),
    ]
    assert await collected(read_batch(rig.jobs, rig.batches, "b", after=0, follow=True)) == []


async def test_the_owner_must_be_allowed_the_models(rig: BatchRig) -> None:
    rig.owner = replace(rig.owner, models=("other",))

    news = await run(rig, requests(1))

    assert isinstance(news, Failed)
    assert [one.code for one in (await rig.result("b")).errors] == ["model_not_allowed"]


@pytest.mark.parametrize("wrong", ["purpose", "owner"])
async def test_an_input_file_that_cannot_be_used_fails_the_batch(rig: BatchRig, wrong: str) -> None:
    file_id = await rig.add_file(requests(1), purpose=3 if wrong == "purpose" else 1)
    if wrong == "owner":
        rig.owner = replace(rig.owner, principal="user:bob")
    await rig.submit("b", file_id)

    news = await rig.run_batch("jobs-1")

    assert isinstance(news, Failed)
    [error] = (await rig.result("b")).errors
    assert error.code == {"purpose": "invalid_purpose", "owner": "file_not_found"}[wrong]


async def test_results_are_read_while_the_batch_runs(rig: BatchRig) -> None:
    await rig.submit("b", await rig.add_file(requests(5)))
    running = asyncio.create_task(rig.run_batch("jobs-1"))
    async with asyncio.timeout(TIMEOUT_S):
        key, claims = 0, list[Any]()
        while len(claims) < 5:
            key, some = await rig.claim("worker", Kind.REQUEST)
            claims += some
            await asyncio.sleep(0.01)
        by_number = {int(one.id.job_id.rpartition(":")[2]): one for one in claims}

        async def end(*numbers: int) -> None:
            ids = [by_number[number].id for number in numbers]
            news = [Update(id=one, news=answer(one.job_id, {})) for one in ids]
            await rig.jobs.apply(key, news)

        async def numbers(*, after: int = 0) -> list[int]:
            found = await collected(
                read_batch(rig.jobs, rig.batches, "b", after=after, follow=False)
            )
            return [one.number for one in found]

        following = read_batch(rig.jobs, rig.batches, "b", after=0, follow=True)
        await end(2, 4)
        assert await numbers() == [2, 4]
        assert await numbers(after=2) == [4]
        await end(1)
        assert [(await anext(following)).number for _ in range(2)] == [1, 2]
        await end(3, 5)
        assert [one.number for one in await collected(following)] == [3, 4, 5]
        assert isinstance(await running, Completed)


async def test_an_older_attempt_writes_nothing(rig: BatchRig) -> None:
    await rig.submit("b", await rig.add_file(requests(3)))
    _, [old] = await rig.claim("jobs-1", Kind.BATCH)
    await rig.end_session("jobs-1")
    key, [new] = await rig.claim("jobs-2", Kind.BATCH)

    async with asyncio.timeout(TIMEOUT_S), rig.working():
        with pytest.raises(IllegalState):
            await rig.runner().run(old)
        assert await rig.batches.read_bytes("b") == (0, 0)
        news = await rig.runner().run(new)
        late = Failed(failure=FAILURE, fault=Fault.JOB)
        assert (await rig.jobs.apply(key, [Update(id=old.id, news=late)])).fenced == [old.id]
        await rig.jobs.apply(key, [Update(id=new.id, news=news)])

    assert len(await rig.lines((await rig.result("b")).output_file_id)) == 3


async def test_a_cancelled_batch_runs_no_more_requests_and_keeps_its_results(
    rig: BatchRig,
) -> None:
    await rig.submit("b", await rig.add_file(requests(600)))
    _, [claim] = await rig.claim("jobs-1", Kind.BATCH)
    running = asyncio.create_task(rig.runner().run(claim))
    ran: list[str] = []
    async with asyncio.timeout(TIMEOUT_S), rig.working(ran=ran):
        while not ran:
            await asyncio.sleep(0.01)
        await rig.jobs.cancel("b")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await rig.end_session("jobs-1")
        assert (await rig.jobs.get("b")).state == State.CANCELLED
        items = await collected(read_batch(rig.jobs, rig.batches, "b", after=0, follow=True))
    done = [one.number for one in items if one.result]
    assert len(done) == len(set(ran))


async def test_a_retry_runs_what_has_no_result_and_writes_the_files_again(rig: BatchRig) -> None:
    await rig.submit("b", await rig.add_file(requests(4)))
    ran: list[str] = []
    _, [claim] = await rig.claim("jobs-1", Kind.BATCH)
    running = asyncio.create_task(rig.runner().run(claim))
    async with asyncio.timeout(TIMEOUT_S):
        key, claims = 0, list[Any]()
        while not claims:
            key, claims = await rig.claim("worker", Kind.REQUEST, limit=1)
            await asyncio.sleep(0.01)
        await rig.jobs.apply(key, [Update(id=claims[0].id, news=answer("x", {}))])
        await rig.jobs.cancel("b")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await rig.end_session("jobs-1")

        await rig.jobs.retry("b")
        async with rig.working(ran=ran):
            news = await rig.run_batch("jobs-2")

    assert isinstance(news, Completed)
    assert claims[0].id.job_id not in ran
    found = await rig.lines((await rig.result("b")).output_file_id)
    assert [one["custom_id"] for one in found] == [f"c-{n}" for n in range(1, 5)]


async def test_a_retry_of_a_completed_batch_runs_what_failed_and_writes_the_files_again(
    rig: BatchRig,
) -> None:
    lines = requests(4, c2={"fails": True}, c3={"refused": True})
    assert isinstance(await run(rig, lines), Completed)
    first = await rig.result("b")
    refused = await rig.jobs.get("b:3")
    assert (refused.state, refused.failure and refused.failure.code) == (State.FAILED, 3)

    ran: list[str] = []
    await rig.jobs.retry("b")
    async with asyncio.timeout(TIMEOUT_S), rig.working(answer=_right, ran=ran):
        assert isinstance(await rig.run_batch("jobs-2"), Completed)

    assert sorted(ran) == ["b:2", "b:3"]
    second = await rig.result("b")
    found = await rig.lines(second.output_file_id)
    assert [one["custom_id"] for one in found] == [f"c-{n}" for n in range(1, 5)]
    assert second.output_file_id != first.output_file_id
    assert not second.error_file_id
    with pytest.raises(IllegalState, match="none to run again"):
        await rig.jobs.retry("b")


def _right(custom_id: str, body: dict[str, Any]) -> Completed | Failed:
    return answer(custom_id, {"id": body["id"]})
