"""OpenAI's files and batches: the official client, a gateway, a jobs service, and a worker that
translates requests by the gateway.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from mlxmesh.generation.v1 import generation_pb2 as g
from mlxmesh.generation.v1.generation_pb2_grpc import GenerationServiceStub
from mlxmesh.job.v1 import file_pb2, job_pb2
from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh.job.v1.file_pb2_grpc import FileServiceStub
from mlxmesh.job.v1.job_pb2_grpc import JobServiceStub
from mlxmesh.job.v1.worker_pb2_grpc import TranslationServiceStub
from mlxmesh_gateway.openai.batches.convert import new_batch_id
from mlxmesh_jobs.storage.schema import JOBS
from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.rpc.caller import owner_id
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.error_status import to_failure
from tests.fakes.databases import sqlite_with_tables
from tests.fakes.job_worker import ScriptedWorker, connected
from tests.integration.jobs.conftest import Service, Services

from .conftest import Stand

TIMEOUT_S = 30
MIB = 2**20
CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "a b c"}]


def line(custom_id: str, url: str = CHAT, **body: Any) -> bytes:
    whole = {"custom_id": custom_id, "method": "POST", "url": url}
    asked = {"model": "chat", "messages": MESSAGES, **body}
    return json.dumps({**whole, "body": asked}).encode() + b"\n"


class Edge:
    """A gateway's HTTP port with jobs and generations behind it."""

    def __init__(self, address: str, url: str, http: httpx2.AsyncClient, service: Service) -> None:
        self.address = address
        self.url = url
        self.http = http
        self.service = service
        self.client = AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0)

    async def upload(self, content: bytes, **options: Any) -> Any:
        return await self.client.files.create(
            file=("in.jsonl", content), **{"purpose": "batch", **options}
        )

    async def batch(self, content: bytes, **options: Any) -> Any:
        file = await self.upload(content)
        asked = {"endpoint": CHAT, "completion_window": "24h", **options}
        return await self.client.batches.create(input_file_id=file.id, **asked)

    async def until(self, batch_id: str, *statuses: str) -> Any:
        async with asyncio.timeout(TIMEOUT_S):
            while (batch := await self.client.batches.retrieve(batch_id)).status not in statuses:
                await asyncio.sleep(0.02)
        return batch

    async def lines(self, file_id: str) -> list[Any]:
        content = await self.client.files.content(file_id)
        return [json.loads(one) for one in content.text.splitlines()]


@pytest.fixture
async def edge(tmp_path: Path) -> AsyncIterator[Edge]:
    async with AsyncExitStack() as stack:
        stand = Stand(stack, tmp_path)
        services = Services(stack, sqlite_with_tables(tmp_path / "jobs.db", JOBS), tmp_path)
        services.registry = stand.registry
        service, _ = await services.start(lease_s=10, max_file_bytes=64 * MIB)
        stack.push_async_callback(service.jobs.drain)
        await stand.generation()
        await stand.models()
        address = await stand.gateway()
        url = f"http://{await stand.http(address)}"
        http = await stack.enter_async_context(httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S))
        made = Edge(address, url, http, service)
        await stack.enter_async_context(made.client)
        async with asyncio.timeout(TIMEOUT_S):
            while (await http.get("/v1/files")).status_code == 503:
                await asyncio.sleep(0.02)
        yield made


@pytest.fixture
async def working(edge: Edge) -> AsyncGenerator[None]:
    """A worker runs requests meanwhile."""
    generation = (await edge.service.registry.resolve("generation"))[0].address
    async with (
        open_channel(edge.address) as gateway,
        open_channel(generation) as channel,
        connected(ScriptedWorker(edge.service.channel, slots=16)) as worker,
    ):
        work = asyncio.create_task(
            _work(worker, TranslationServiceStub(gateway), GenerationServiceStub(channel))
        )
        yield
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _work(worker: ScriptedWorker, translation: Any, generation: Any) -> None:
    while True:
        assignment = await worker.assigned.get()
        work = assignment.request
        about = {"endpoint": work.endpoint, "body_json": work.body_json}
        try:
            found = await translation.TranslateRequest(pb.TranslateRequestRequest(**about))
            request = found.generation
            request.request_id = assignment.id.job_id
            result: Any = {
                "generation": await generation.Complete(g.CompleteRequest(generation=request))
            }
        except MeshError as error:
            result = {"failure": to_failure(error)}
        rendered = await translation.RenderResponse(pb.RenderResponseRequest(**about, **result))
        response = job_pb2.RequestResult(
            status_code=rendered.status_code,
            request_id=assignment.id.job_id,
            body_json=rendered.body_json,
            prompt_tokens=3,
            completion_tokens=2,
        )
        update = pb.AttemptUpdate(id=assignment.id, result=pb.AttemptResult(request=response))
        await worker.report(update)


@pytest.mark.usefixtures("working")
async def test_a_batch_gives_what_the_route_gives(edge: Edge) -> None:
    lines = [line("one"), line("two", stream=True), line("three", n=2, logprobs=True)]

    batch = await edge.batch(b"".join(lines), metadata={"Nightly run": "é"})
    assert (batch.object, batch.endpoint, batch.completion_window) == ("batch", CHAT, "24h")
    assert batch.expires_at == pytest.approx(batch.created_at + 86_400, abs=2)
    batch = await edge.until(batch.id, "completed")

    counts = batch.request_counts
    assert (counts.total, counts.completed + counts.failed) == (3, 3)
    assert batch.metadata == {"Nightly run": "é"}
    good = await edge.lines(batch.output_file_id)
    [bad] = await edge.lines(batch.error_file_id)
    assert [one["custom_id"] for one in good] == ["one", "three"]
    over_http = await edge.http.post(CHAT, json={"model": "chat", "messages": MESSAGES})
    body, expected = good[0]["response"]["body"], over_http.json()
    for one in (body, expected):
        for its_own in ("id", "created"):
            one.pop(its_own)
    assert body == expected
    assert good[0]["response"]["status_code"] == 200
    assert bad["custom_id"] == "two"
    assert bad["response"]["status_code"] == 400
    assert bad["response"]["body"]["error"]["param"] == "stream"


async def test_an_invalid_file_fails_the_batch_with_the_errors_of_its_lines(edge: Edge) -> None:
    batch = await edge.batch(line("a") + b"{\n" + line("a"))

    batch = await edge.until(batch.id, "failed")

    found = [(one.line, one.code) for one in batch.errors.data]
    assert found == [(2, "invalid_json_line"), (3, "duplicate_custom_id")]
    assert batch.failed_at is not None
    assert batch.output_file_id is None


async def test_a_batch_is_cancelled(edge: Edge) -> None:
    batch = await edge.batch(line("a"))
    await edge.until(batch.id, "in_progress")

    cancelled = await edge.client.batches.cancel(batch.id)

    assert cancelled.status in ("cancelling", "cancelled")
    ended = await edge.until(batch.id, "cancelled")
    assert ended.cancelled_at is not None
    assert (await edge.client.batches.cancel(batch.id)).status == "cancelled"


async def test_the_same_key_is_the_same_batch(edge: Edge) -> None:
    file = await edge.upload(line("a"))
    asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    headers = {"idempotency-key": "k 1"}
    first = await edge.http.post("/v1/batches", json=asked, headers=headers)
    await asyncio.sleep(1)  # deadlines are whole seconds
    again = await edge.http.post("/v1/batches", json=asked, headers=headers)
    other = await edge.http.post(
        "/v1/batches", json={**asked, "metadata": {"a": "b"}}, headers=headers
    )

    assert "id" in again.json(), again.text
    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["error"]["code"]) == (409, "job_exists")


async def submit_with_near_deadline(
    stub: JobServiceStub, request: job_pb2.SubmitJobRequest
) -> None:
    for seconds in (1, 4, 16):
        request.deadline.FromMilliseconds(int(1000 * (time.time() + seconds)))
        with suppress(InvalidArgument):  # it came after that
            await stub.SubmitJob(request)
            return


async def test_the_same_key_is_the_same_batch_also_after_its_deadline(edge: Edge) -> None:
    file = await edge.upload(line("a"))
    headers = {"idempotency-key": "k 1"}
    async with open_channel(edge.address) as gateway:
        request = job_pb2.SubmitJobRequest(
            job_id=new_batch_id(headers, principal=owner_id("", "")),
            batch=job_pb2.BatchWork(input_file_id=file.id, endpoint=CHAT),
        )
        await submit_with_near_deadline(JobServiceStub(gateway), request)
    await edge.until(request.job_id, "expired")

    asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
    again = await edge.http.post("/v1/batches", json=asked, headers=headers)
    assert again.status_code == 200, again.text
    assert (again.json()["id"], again.json()["status"]) == (request.job_id, "expired")


async def test_batches_are_listed_in_pages(edge: Edge) -> None:
    file = await edge.upload(line("a"))
    made = [
        (
            await edge.client.batches.create(
                input_file_id=file.id, endpoint=CHAT, completion_window="24h"
            )
        ).id
        for _ in range(5)
    ]

    page = await edge.client.batches.list(limit=2)
    listed = [one.id async for one in edge.client.batches.list(limit=2)]

    assert [one.id for one in page.data] == made[:2:-1]
    assert page.has_more
    assert listed == made[::-1]


async def test_files_are_listed_in_pages_and_by_purpose(edge: Edge) -> None:
    made = [(await edge.upload(b"x%d" % number)).id for number in range(4)]
    image = await edge.upload(b"image", purpose="user_data")

    newest = [one.id async for one in edge.client.files.list(limit=2)]
    oldest = [one.id async for one in edge.client.files.list(limit=3, order="asc")]
    batches = [one.id async for one in edge.client.files.list(purpose="batch")]

    assert newest == [image.id, *made[::-1]]
    assert oldest == newest[::-1]
    assert batches == made[::-1]


async def test_a_file_is_shown_read_and_removed(edge: Edge) -> None:
    made = await edge.client.files.create(
        file=("a/b ü.png", b"\x89PNG\0", "image/png"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )

    shown = await edge.client.files.retrieve(made.id)
    content = await edge.http.get(f"/v1/files/{made.id}/content")
    removed = await edge.client.files.delete(made.id)

    assert shown == made
    assert (shown.filename, shown.bytes, shown.purpose) == ("b ü.png", 5, "user_data")
    assert (shown.status, shown.expires_at) == ("processed", made.created_at + 3600)
    assert content.content == b"\x89PNG\0"
    assert content.headers["content-type"] == "image/png"
    assert content.headers["content-disposition"].startswith("attachment")
    assert removed.deleted
    with pytest.raises(openai.NotFoundError):
        await edge.client.files.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await edge.client.files.content(made.id)


@pytest.mark.parametrize("purpose", ["batch", "user_data"])
async def test_the_purpose_may_follow_the_file(edge: Edge, purpose: str) -> None:
    content = b"z" * (2 * MIB + 5)
    body, boundary = b"", "limit"
    for head, value in (
        ('name="file"; filename="in.jsonl"', content),
        ('name="purpose"', purpose.encode()),
    ):
        start = f"--{boundary}\r\ncontent-disposition: form-data; {head}\r\n\r\n"
        body += start.encode() + value + b"\r\n"
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    response = await edge.http.post(
        "/v1/files", content=body + f"--{boundary}--\r\n".encode(), headers=headers
    )

    made = response.json()
    assert (response.status_code, made["purpose"], made["bytes"]) == (200, purpose, len(content))
    assert (await edge.client.files.content(made["id"])).content == content
    assert [one.id async for one in edge.client.files.list()] == [made["id"]]


async def test_an_upload_is_stored_while_it_arrives_whatever_the_limit_of_other_bodies(
    edge: Edge,
) -> None:
    parts, part = 40, b"y" * MIB
    behind: list[int] = []
    head = (
        '--limit\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--limit\r\n'
        'content-disposition: form-data; name="file"; filename="f"\r\n\r\n'
    )

    async def body() -> AsyncIterator[bytes]:
        yield head.encode()
        for number in range(parts):
            yield part
            if number % 10 == 9:
                stored = (await files.ListFiles(file_pb2.ListFilesRequest())).files
                behind.append(number + 1 - stored[0].size_bytes // MIB)
        yield b"\r\n--limit--\r\n"

    files: Any = FileServiceStub(edge.service.channel)
    headers = {"content-type": "multipart/form-data; boundary=limit"}
    response = await edge.http.post("/v1/files", content=body(), headers=headers)

    assert (response.status_code, response.json()["bytes"]) == (200, parts * MIB)
    # What lies between: buffers of sockets, and a piece in the gateway.
    assert max(behind) <= 8
    assert (await edge.client.files.content(response.json()["id"])).content == part * parts


async def test_a_file_that_is_too_large_is_refused_and_not_kept(edge: Edge) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'--limit\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        yield b'--limit\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(66):
            yield b"y" * MIB
        yield b"\r\n--limit--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=limit"}
    response = await edge.http.post("/v1/files", content=body(), headers=headers)

    assert (response.status_code, response.json()["error"]["code"]) == (413, "message_too_large")
    assert [one async for one in edge.client.files.list()] == []


async def test_an_upload_whose_client_goes_away_is_not_kept(edge: Edge) -> None:
    host, _, port = edge.url.removeprefix("http://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/files HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-length: 99999999\r\n"
    writer.write(head.encode() + b"content-type: multipart/form-data; boundary=limit\r\n\r\n")
    writer.write(b'--limit\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n')
    writer.write(b"y" * (3 * MIB))
    async with asyncio.timeout(TIMEOUT_S):
        while not [one async for one in edge.client.files.list()]:
            await asyncio.sleep(0.02)
        writer.close()
        while [one async for one in edge.client.files.list()]:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("form", "status", "param"),
    [
        ({"purpose": "vision"}, 400, "purpose"),
        ({"purpose": "other"}, 400, "purpose"),
        ({}, 400, "purpose"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, 400, "expires_after[anchor]"),
        (
            {
                "purpose": "batch",
                "expires_after[anchor]": "created_at",
                "expires_after[seconds]": "5",
            },
            400,
            "expires_after[seconds]",
        ),
    ],
)
async def test_an_illegal_form_is_refused_by_the_name_of_the_field(
    edge: Edge, form: dict[str, str], status: int, param: str
) -> None:
    response = await edge.http.post("/v1/files", data=form, files={"file": ("f", b"x")})

    assert (response.status_code, response.json()["error"]["param"]) == (status, param)
    assert [one async for one in edge.client.files.list()] == []


@pytest.mark.parametrize(
    "body",
    [b"", b"--limit--\r\n", b"no form", b"--limit\r\nbad header\r\n\r\nx\r\n--limit--\r\n"],
)
async def test_what_is_no_form_is_refused(edge: Edge, body: bytes) -> None:
    for kind in ("multipart/form-data; boundary=limit", "multipart/form-data", "text/plain"):
        response = await edge.http.post("/v1/files", content=body, headers={"content-type": kind})

        assert response.status_code == 400


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"completion_window": "1h"}, "completion_window"),
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"endpoint": "/v1/other"}, "endpoint"),
        ({"input_file_id": "no id"}, "input_file_id"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at"}}, "output_expires_after"),
    ],
)
async def test_an_illegal_batch_is_refused_by_the_name_of_the_field(
    edge: Edge, change: dict[str, Any], param: str
) -> None:
    file = await edge.upload(line("a"))
    asked = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **change}

    response = await edge.http.post("/v1/batches", json=asked)

    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_a_batch_needs_a_file_for_batches(edge: Edge) -> None:
    image = await edge.upload(b"x", purpose="user_data")
    with pytest.raises(openai.BadRequestError):
        await edge.client.batches.create(
            input_file_id=image.id, endpoint=CHAT, completion_window="24h"
        )
    with pytest.raises(openai.NotFoundError):
        await edge.client.batches.create(
            input_file_id="file-0", endpoint=CHAT, completion_window="24h"
        )


async def test_a_job_of_another_kind_is_no_batch(edge: Edge) -> None:
    await edge.service.anonymous.submit("a-job")

    for path in ("", "/cancel"):
        verb = "POST" if path else "GET"
        response = await edge.http.request(verb, f"/v1/batches/a-job{path}")

        assert (response.status_code, response.json()["error"]["code"]) == (404, "job_not_found")
    assert (await edge.client.batches.list()).data == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files?limit=0",
        "/v1/files?limit=x",
        "/v1/files?order=up",
        "/v1/files?purpose=other",
        "/v1/batches?limit=101",
    ],
)
async def test_illegal_parameters_of_lists_are_refused(edge: Edge, path: str) -> None:
    assert (await edge.http.get(path)).status_code == 400
