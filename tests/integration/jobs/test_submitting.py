"""What is stored of a submission, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.job.v1 import job_pb2 as pb
from mlxmesh.job.v1 import worker_pb2
from mlxmesh_shared.errors import (
    FileNotFound,
    InvalidArgument,
    JobExists,
    MeshError,
    ModelNotAllowed,
    QueueFull,
)

from .conftest import Service

GENERATION: Any = {"model": "chat", "prompt": "hello"}
OTHER: Any = {**GENERATION, "prompt": "other"}
YEAR_S = 366 * 86_400


def at(seconds: float) -> Timestamp:
    """So many seconds from now."""
    return Timestamp(seconds=round(time.time() + seconds))


async def test_a_repeated_submission_is_the_same_job(service: Service) -> None:
    first = await service.ada.submit("j1", generation=GENERATION)
    again = await service.ada.submit("j1", generation=GENERATION)
    assert again == first
    with pytest.raises(JobExists):
        await service.ada.submit("j1", generation=OTHER)
    with pytest.raises(JobExists):
        await service.bob.submit("j1", generation=GENERATION)


async def test_a_job_has_an_id_a_seed_and_a_queue_of_its_own(service: Service) -> None:
    job = await service.ada.submit()
    response = await service.ada.GetJob(job_id=job.job_id, with_work=True)
    assert job.job_id
    assert job.queue == "generation"
    assert job.summary == "generate with chat@3"
    assert response.submitted.generation.sampling.HasField("seed")
    assert response.submitted.generation.prompt == "a secret prompt"
    assert not response.submitted.generation.request_id
    given = await service.ada.submit(
        generation={**GENERATION, "sampling": {"seed": 7}}, queue="night"
    )
    response = await service.ada.GetJob(job_id=given.job_id, with_work=True)
    assert response.submitted.generation.sampling.seed == 7
    assert given.queue == "night"


async def test_several_jobs_are_stored_all_or_none(service: Service) -> None:
    await service.ada.submit("taken", generation=GENERATION)
    jobs = [
        pb.SubmitJobRequest(job_id="new", generation=GENERATION),
        pb.SubmitJobRequest(job_id="taken", generation=OTHER),
    ]
    with pytest.raises(JobExists):
        await service.ada.SubmitJobs(jobs=jobs)
    assert [each.job_id for each in (await service.ada.ListJobs()).jobs] == ["taken"]
    stored = await service.ada.SubmitJobs(jobs=jobs[:1])
    assert [each.job_id for each in stored.jobs] == ["new"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"generation": {**GENERATION, "request_id": "r"}}, "generation.request_id"),
        ({"generation": {**GENERATION, "detached": True}}, "generation.detached"),
        ({"generation": {**GENERATION, "keep_request": True}}, "generation.keep_request"),
        ({"generation": {**GENERATION, "client_data": "{}"}}, "generation.client_data"),
        ({"generation": {"prompt": "no model"}}, "generation.model"),
        ({"not_before": at(2 * YEAR_S)}, "not_before"),
        ({"not_before": Timestamp(seconds=-5)}, "not_before"),
        ({"deadline": at(2 * YEAR_S)}, "deadline"),
        ({"deadline": at(-10)}, "deadline"),
        ({"deadline": at(100), "not_before": at(200)}, "deadline"),
        ({"deadline": Timestamp(seconds=2**62)}, "deadline"),
        ({"priority": 101}, "priority"),
        ({"queue": "Night"}, "queue"),
        ({"job_id": "a/b"}, "job_id"),
        ({"retry": {"max_attempts": 101}}, "retry.max_attempts"),
        ({"retention_s": 2_592_001}, "retention_s"),
        ({"attempt_timeout_s": 604_801}, "attempt_timeout_s"),
        ({"labels": {"A": "upper case"}}, "labels"),
    ],
)
async def test_an_illegal_value_is_named(
    sqlite_service: Service, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await sqlite_service.ada.submit(**fields)
    assert caught.value.field.startswith(field)
    if fields.keys() != {"job_id"}:
        [job] = [pb.SubmitJobRequest(**{"generation": GENERATION, **fields})]
        with pytest.raises(InvalidArgument) as caught:
            await sqlite_service.ada.SubmitJobs(jobs=[job])
        assert caught.value.field.startswith(f"jobs[0].{field}")
    assert not (await sqlite_service.admin.ListJobs()).jobs


async def test_ids_within_a_call_differ(sqlite_service: Service) -> None:
    job = pb.SubmitJobRequest(job_id="same", generation=GENERATION)
    with pytest.raises(InvalidArgument) as caught:
        await sqlite_service.ada.SubmitJobs(jobs=[job, job])
    assert caught.value.field == "jobs[1].job_id"


async def test_a_limited_key_submits_for_its_models_only(sqlite_service: Service) -> None:
    limited = (("mlxmesh-models", "qwen*,llama"),)
    work: dict[str, Any]
    for work in ({"generation": GENERATION}, {"embedding": {"model": "chat", "inputs": ["a"]}}):
        with pytest.raises(ModelNotAllowed):
            await sqlite_service.ada.SubmitJob(**work, metadata=limited)
    allowed = {"model": "qwen-2", "prompt": "x"}
    await sqlite_service.ada.SubmitJob(generation=allowed, metadata=limited)


async def test_the_owner_travels_with_the_job(service: Service) -> None:
    worker = await service.worker()
    metadata = (("mlxmesh-team", "core"), ("mlxmesh-models", "chat,q*"))
    await service.ada.SubmitJob(generation=GENERATION, metadata=metadata)
    assert (await worker.next()).owner == worker_pb2.JobOwner(
        owner="user:ada#",
        principal="user:ada",
        share="user:ada",
        user="ada",
        team="core",
        models=["chat", "q*"],
    )


async def test_connectors_are_those_that_workers_have(service: Service) -> None:
    early = await service.ada.submit(connector={"connector": "unknown"})
    assert early.queue == "unknown"
    a1111 = worker_pb2.Connector(name="a1111_http", operations=["txt2img", "img2img"])
    worker = await service.worker(connectors=[a1111])
    with pytest.raises(InvalidArgument, match="they have a1111_http") as caught:
        await service.ada.submit(connector={"connector": "comfyui_http"})
    assert caught.value.field == "connector.connector"
    with pytest.raises(InvalidArgument, match="txt2img, img2img") as caught:
        await service.ada.submit(connector={"connector": "a1111_http", "operation": "upscale"})
    assert caught.value.field == "connector.operation"
    job = await service.ada.submit(connector={"connector": "a1111_http"})
    assert job.summary == "txt2img by a1111_http"
    assert (await worker.next()).connector.connector == "a1111_http"


async def test_files_must_be_the_callers_own(sqlite_service: Service) -> None:
    created = await sqlite_service.ada.CreateFile(name="a.jsonl", purpose="FILE_PURPOSE_BATCH")
    file_id = created.file.file_id
    await sqlite_service.ada.AppendFile(file_id=file_id, data=b"{}\n")
    work = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    with pytest.raises(MeshError):  # it is not complete
        await sqlite_service.ada.submit(batch=work)
    await sqlite_service.ada.FinishFile(file_id=file_id, size_bytes=3)
    with pytest.raises(FileNotFound):
        await sqlite_service.bob.submit(batch=work)
    with pytest.raises(FileNotFound):
        await sqlite_service.ada.submit(batch={**work, "input_file_id": "file-none"})
    await sqlite_service.ada.submit(batch=work)


async def test_a_full_queue_refuses_a_principal(service: Service) -> None:
    await service.admin.SetQueue(name="small", settings={"max_waiting_per_principal": 1})
    await service.ada.submit(queue="small")
    with pytest.raises(QueueFull):
        await service.ada.submit(queue="small")
    await service.bob.submit(queue="small")
