"""Whose jobs a caller sees."""

from __future__ import annotations

from typing import Any

import pytest

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh_shared.errors import InvalidArgument, JobNotFound

from .conftest import Client, Service


async def call(client: Client, method: str, **fields: Any) -> Any:
    """Calls a method; of a stream, reads the first message."""
    found = getattr(client, method)(**fields)
    return await (found.read() if method in ("WatchJob", "ReadBatch") else found)


@pytest.mark.parametrize("method", ["GetJob", "CancelJob", "RetryJob", "WatchJob", "ReadBatch"])
async def test_a_job_of_another_caller_is_unknown(sqlite_service: Service, method: str) -> None:
    await sqlite_service.ada.submit("j1")
    messages: list[str] = []
    for client, job_id in (
        (sqlite_service.bob, "j1"),
        (sqlite_service.anonymous, "j1"),
        (sqlite_service.bob, "none"),
    ):
        with pytest.raises(JobNotFound) as caught:
            await call(client, method, job_id=job_id)
        said = caught.value.message.replace(job_id, "ID")
        messages.append(f"{caught.value.field} {said}")
    assert len(set(messages)) == 1
    assert (await sqlite_service.ada.job("j1")).state == pb.JOB_STATE_WAITING


async def test_an_admin_sees_all(sqlite_service: Service) -> None:
    await sqlite_service.ada.submit("j1")
    assert (await sqlite_service.admin.job("j1")).principal == "user:ada"
    assert (await call(sqlite_service.admin, "WatchJob", job_id="j1")).job.job_id == "j1"
    await sqlite_service.admin.CancelJob(job_id="j1")
    assert (await sqlite_service.admin.RetryJob(job_id="j1")).job.state == pb.JOB_STATE_WAITING


async def test_callers_without_credentials_are_one_owner(sqlite_service: Service) -> None:
    job = await sqlite_service.anonymous.submit("j1")
    assert job.principal == "anonymous"
    named = (("mlxmesh-owner", "#claimed"),)
    response = await sqlite_service.anonymous.GetJob(job_id="j1", metadata=named)
    assert response.job.job_id == "j1"


async def ids(client: Client, **fields: Any) -> list[str]:
    return [each.job_id for each in (await client.ListJobs(**fields)).jobs]


async def test_a_list_has_the_callers_own_jobs(service: Service) -> None:
    for number in range(3):
        await service.ada.submit(f"a{number}", labels={"n": str(number)})
    await service.bob.submit("b0", queue="night")
    assert await ids(service.ada) == ["a2", "a1", "a0"]
    assert await ids(service.ada, principal="user:bob") == []
    assert await ids(service.admin) == ["b0", "a2", "a1", "a0"]
    assert await ids(service.admin, principal="user:bob") == ["b0"]
    assert await ids(service.admin, queue="night") == ["b0"]
    assert await ids(service.ada, labels={"n": "1"}) == ["a1"]
    assert await ids(service.ada, states=["JOB_STATE_RUNNING"]) == []
    assert await ids(service.ada, kinds=["JOB_KIND_BATCH"]) == []
    assert await ids(service.ada, after_job_id="a1") == ["a0"]


async def test_a_list_has_pages(service: Service) -> None:
    for number in range(5):
        await service.ada.submit(f"a{number}")
    found: list[str] = []
    token = ""
    while True:
        response = await service.ada.ListJobs(page_size=2, page_token=token)
        found += [each.job_id for each in response.jobs]
        token = response.next_page_token
        if not token:
            break
    assert found == ["a4", "a3", "a2", "a1", "a0"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"page_size": 1001}, "page_size"),
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_token": "WyJhZnRlciIsICJ4Il0="}, "page_token"),
        ({"states": [99]}, "states[0]"),
        ({"kinds": [99]}, "kinds[0]"),
        ({"states": [0]}, "states[0]"),
        ({"queue": "?"}, "queue"),
        ({"created_after": {"seconds": -1}}, "created_after"),
        ({"after_job_id": "j1", "page_token": "WyJhZnRlciIsIDFd"}, "after_job_id"),
    ],
)
async def test_an_illegal_list_names_the_field(
    sqlite_service: Service, fields: dict[str, Any], field: str
) -> None:
    await sqlite_service.ada.submit("j1")
    with pytest.raises(InvalidArgument) as caught:
        await sqlite_service.ada.ListJobs(**fields)
    assert caught.value.field == field


async def test_a_batch_is_read_by_its_owner_only(sqlite_service: Service) -> None:
    await sqlite_service.ada.submit("j1")
    with pytest.raises(InvalidArgument, match="no batch"):
        await call(sqlite_service.ada, "ReadBatch", job_id="j1")
