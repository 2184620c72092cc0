"""FileService with real gRPC and real databases: whose files, which ones, and how large."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from mlxmesh.job.v1 import file_pb2 as pb
from mlxmesh.job.v1.file_pb2_grpc import FileServiceStub
from mlxmesh_shared.errors import (
    FileNotFound,
    FilesFull,
    IllegalState,
    InvalidArgument,
    JobNotFound,
    MessageTooLarge,
)

from .conftest import Client, Service, Services

PIECE_BYTES = 2**20


async def add(client: Client, content: bytes = b"content", **fields: Any) -> pb.File:
    """A complete file."""
    wanted = {"name": "in.jsonl", "purpose": pb.FILE_PURPOSE_BATCH, **fields}
    file = (await client.CreateFile(**wanted)).file
    for start in range(0, len(content), PIECE_BYTES):
        data = content[start : start + PIECE_BYTES]
        await client.AppendFile(file_id=file.file_id, offset=start, data=data)
    digest = hashlib.sha256(content).hexdigest()
    finished = await client.FinishFile(file_id=file.file_id, size_bytes=len(content), sha256=digest)
    return finished.file


async def content_of(client: Client, file_id: str, offset: int = 0) -> bytes:
    pieces = client.ReadFile(file_id=file_id, offset=offset)
    return b"".join([one.data async for one in pieces])


async def ids(client: Client, **fields: Any) -> list[str]:
    return [one.file_id for one in (await client.ListFiles(**fields)).files]


async def test_a_file_is_read_from_any_offset(service: Service) -> None:
    content = bytes(range(256)) * 10_000

    file = await add(service.ada, content, media_type="text/plain")

    assert (file.complete, file.size_bytes, file.principal) == (True, len(content), "user:ada")
    assert (file.name, file.media_type, file.HasField("expire_time")) == (
        "in.jsonl",
        "text/plain",
        False,
    )
    for offset in (0, 5, PIECE_BYTES, PIECE_BYTES + 1, len(content)):
        assert await content_of(service.ada, file.file_id, offset) == content[offset:]
    with pytest.raises(InvalidArgument):
        await content_of(service.ada, file.file_id, len(content) + 1)


async def test_a_caller_sees_its_own_files_and_an_admin_all(service: Service) -> None:
    ours, theirs = await add(service.ada), await add(service.bob)

    assert await ids(service.ada) == [ours.file_id]
    assert sorted(await ids(service.admin)) == sorted([ours.file_id, theirs.file_id])
    assert await content_of(service.admin, ours.file_id) == b"content"
    calls: list[Any] = [
        lambda: service.bob.GetFile(file_id=ours.file_id),
        lambda: service.bob.AppendFile(file_id=ours.file_id, data=b"x"),
        lambda: service.bob.FinishFile(file_id=ours.file_id, size_bytes=7),
        lambda: service.bob.DeleteFile(file_id=ours.file_id),
        lambda: service.bob.ListFiles(after_file_id=ours.file_id),
        lambda: content_of(service.bob, ours.file_id),
    ]
    for call in calls:
        with pytest.raises(FileNotFound):
            await call()


async def test_files_are_listed_in_pages_of_either_order(sqlite_service: Service) -> None:
    ada = sqlite_service.ada
    made = [(await add(ada)).file_id for _ in range(5)]
    image = (await add(ada, purpose=pb.FILE_PURPOSE_USER_DATA)).file_id
    pages: list[list[str]] = []
    token = ""
    while token or not pages:
        page = await ada.ListFiles(page_size=2, page_token=token, oldest_first=True)
        pages.append([one.file_id for one in page.files])
        token = page.next_page_token

    assert [one for page in pages for one in page] == [*made, image]
    assert await ids(ada, after_file_id=made[2]) == [made[1], made[0]]
    assert await ids(ada, purpose=pb.FILE_PURPOSE_USER_DATA) == [image]
    for wrong in ({"page_token": "x"}, {"after_file_id": made[0], "page_token": "x"}):
        with pytest.raises(InvalidArgument):
            await ada.ListFiles(**wrong)


async def test_callers_make_no_files_of_jobs(sqlite_service: Service) -> None:
    ada = sqlite_service.ada
    await ada.submit("job")
    for wrong in (
        {"purpose": pb.FILE_PURPOSE_BATCH_OUTPUT},
        {"purpose": pb.FILE_PURPOSE_JOB_OUTPUT},
        {"purpose": pb.FILE_PURPOSE_BATCH, "job_id": "job"},
    ):
        with pytest.raises(InvalidArgument):
            await ada.CreateFile(name="x", **wrong)


async def test_a_worker_makes_files_for_the_owner_of_its_job(sqlite_services: Services) -> None:
    service, _ = await sqlite_services.start(max_output_bytes=10)
    await service.ada.submit("job")
    worker: Any = FileServiceStub(service.channel)

    def create(**fields: Any) -> Any:
        return worker.CreateFile(pb.CreateFileRequest(name="x.png", **fields))

    def append(file_id: str, data: bytes) -> Any:
        return worker.AppendFile(pb.AppendFileRequest(file_id=file_id, data=data))

    output = pb.FILE_PURPOSE_JOB_OUTPUT
    file = (await create(purpose=output, job_id="job")).file
    assert (file.principal, file.job_id) == ("user:ada", "job")
    assert file.expire_time.seconds == file.create_time.seconds + 30 * 86_400
    await append(file.file_id, b"12345678")
    assert await ids(service.ada, job_id="job") == [file.file_id]
    assert await ids(service.bob, job_id="job") == []
    second = (await create(purpose=output, job_id="job")).file
    with pytest.raises(FilesFull):
        await append(second.file_id, b"123")
    await append(second.file_id, b"12")
    for wrong, error in (
        ({"purpose": output}, InvalidArgument),
        ({"purpose": pb.FILE_PURPOSE_BATCH, "job_id": "job"}, InvalidArgument),
        ({"purpose": output, "job_id": "other"}, JobNotFound),
    ):
        with pytest.raises(error):
            await create(**wrong)


async def test_a_file_that_is_too_large_is_refused(sqlite_services: Services) -> None:
    service, _ = await sqlite_services.start(max_file_bytes=10, max_files_bytes_per_principal=15)
    await add(service.ada, b"0123456789")

    with pytest.raises(MessageTooLarge):
        await add(service.ada, b"01234567890")
    with pytest.raises(FilesFull):
        await add(service.ada, b"012345")


async def test_an_incomplete_file_is_not_read_and_a_wrong_one_is_removed(
    service: Service,
) -> None:
    file = (await service.ada.CreateFile(name="x", purpose=pb.FILE_PURPOSE_BATCH)).file
    about = {"file_id": file.file_id}
    await service.ada.AppendFile(**about, offset=0, data=b"ab")
    assert (await service.ada.AppendFile(**about, offset=1, data=b"bc")).size_bytes == 3

    with pytest.raises(IllegalState):
        await content_of(service.ada, file.file_id)
    with pytest.raises(IllegalState):
        await service.ada.AppendFile(**about, offset=4, data=b"x")
    with pytest.raises(IllegalState):
        await service.ada.AppendFile(**about, offset=0, data=b"other")
    with pytest.raises(InvalidArgument):
        await service.ada.FinishFile(**about, size_bytes=3, sha256="0" * 64)
    with pytest.raises(FileNotFound):
        await service.ada.GetFile(**about)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("CreateFile", {"name": "", "purpose": 1}),
        ("CreateFile", {"name": "a/b", "purpose": 1}),
        ("CreateFile", {"name": "x" * 256, "purpose": 1}),
        ("CreateFile", {"name": "a"}),
        ("CreateFile", {"name": "a", "purpose": 99}),
        ("CreateFile", {"name": "a", "purpose": 1, "media_type": "no type"}),
        ("CreateFile", {"name": "a", "purpose": 1, "expires_after_s": 31_536_001}),
        ("AppendFile", {"file_id": "f", "data": b""}),
        ("AppendFile", {"file_id": "f", "data": b"x" * (PIECE_BYTES + 1)}),
        ("AppendFile", {"file_id": "f", "data": b"x", "offset": 2**41}),
        ("AppendFile", {"file_id": "no id", "data": b"x"}),
        ("FinishFile", {"file_id": "f", "sha256": "xyz"}),
        ("ListFiles", {"page_size": 1001}),
        ("ListFiles", {"after_file_id": "no id"}),
        ("GetFile", {}),
    ],
)
async def test_illegal_values_are_refused(
    sqlite_service: Service, method: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgument):
        await getattr(sqlite_service.ada, method)(**fields)
