"""Files in SQL."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from mlxmesh_jobs.domain.ports import StoredFile
from mlxmesh_shared.errors import FileNotFound, FilesFull, IllegalState, InvalidArgument
from tests.fakes.new_jobs import claim_one, completed, new_job, owner, tell
from tests.integration.job_storage.conftest import MAX_FILES_BYTES, Stores

DAY_S = 86_400
CONTENT = bytes(range(256)) * 8_200  # more than two pieces


def new_file(file_id: str = "file-1", **fields: Any) -> StoredFile:
    file = StoredFile(
        file_id=file_id,
        name="input.jsonl",
        purpose=1,
        size_bytes=0,
        sha256="",
        media_type="application/jsonl",
        complete=False,
        owner=owner(),
        created_ms=5,
        expires_ms=0,
        job_id="",
    )
    return replace(file, **fields)


async def upload(stores: Stores, content: bytes = b"abc", **fields: Any) -> StoredFile:
    file = await stores.files.create(new_file(**fields))
    await stores.files.append(file.file_id, 0, content)
    return await stores.files.finish(file.file_id, len(content), "")


async def content_of(stores: Stores, file_id: str = "file-1", offset: int = 0) -> bytes:
    return b"".join([piece async for piece in stores.files.read(file_id, offset)])


async def test_a_file_is_stored_in_pieces_and_read_from_any_offset(stores: Stores):
    assert await stores.files.create(new_file()) == new_file()
    assert await stores.files.append("file-1", 0, CONTENT[:1_500_000]) == 1_500_000
    assert await stores.files.append("file-1", 1_500_000, CONTENT[1_500_000:]) == len(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    file = await stores.files.finish("file-1", len(CONTENT), sha256)
    assert (file.complete, file.sha256, file.size_bytes) == (True, sha256, len(CONTENT))
    assert await stores.files.get("file-1") == file
    assert await stores.files.finish("file-1", len(CONTENT), sha256) == file
    pieces = [piece async for piece in stores.files.read("file-1", 0)]
    assert max(map(len, pieces)) <= 1_048_576
    assert b"".join(pieces) == CONTENT
    for offset in (1, 1_048_576, 1_500_001, len(CONTENT)):
        assert await content_of(stores, offset=offset) == CONTENT[offset:]


async def test_bytes_that_are_repeated_change_nothing(stores: Stores):
    await stores.files.create(new_file())
    await stores.files.append("file-1", 0, b"abcdef")
    assert await stores.files.append("file-1", 0, b"abcdef") == 6
    assert await stores.files.append("file-1", 2, b"cd") == 6
    assert await stores.files.append("file-1", 4, b"efgh") == 8
    with pytest.raises(IllegalState, match="other bytes"):
        await stores.files.append("file-1", 2, b"xx")
    with pytest.raises(IllegalState, match="8 bytes"):
        await stores.files.append("file-1", 9, b"x")
    assert await content_of(stores) == b"abcdefgh"
    await stores.files.finish("file-1", 8, "")
    assert await stores.files.append("file-1", 6, b"gh") == 8
    with pytest.raises(IllegalState, match="complete"):
        await stores.files.append("file-1", 8, b"i")


@pytest.mark.parametrize(
    ("size_bytes", "sha256", "field"), [(4, "", "size_bytes"), (3, "0" * 64, "sha256")]
)
async def test_a_damaged_upload_is_removed(
    stores: Stores, size_bytes: int, sha256: str, field: str
):
    await stores.files.create(new_file())
    await stores.files.append("file-1", 0, b"abc")
    with pytest.raises(InvalidArgument) as caught:
        await stores.files.finish("file-1", size_bytes, sha256)
    assert caught.value.field == field
    with pytest.raises(FileNotFound):
        await stores.files.get("file-1")
    assert await stores.count("file_pieces") == 0


async def test_a_complete_file_stays_when_it_is_finished_otherwise(stores: Stores):
    await upload(stores)
    with pytest.raises(InvalidArgument):
        await stores.files.finish("file-1", 4, "")
    assert await content_of(stores) == b"abc"


async def test_what_does_not_exist_is_not_found(stores: Stores):
    for call in (
        stores.files.get("x"),
        stores.files.append("x", 0, b"1"),
        stores.files.finish("x", 1, ""),
        stores.files.delete("x"),
        content_of(stores, "x"),
    ):
        with pytest.raises(FileNotFound):
            await call


async def test_an_id_is_used_once(stores: Stores):
    await stores.files.create(new_file())
    with pytest.raises(IllegalState):
        await stores.files.create(new_file())


async def test_a_principal_has_so_much_room(stores: Stores):
    await upload(stores, bytes(MAX_FILES_BYTES - 10))
    await stores.files.create(new_file("file-2"))
    with pytest.raises(FilesFull, match="user:ada"):
        await stores.files.append("file-2", 0, bytes(11))
    assert await stores.files.append("file-2", 0, bytes(10)) == 10
    await upload(stores, bytes(11), file_id="file-3", owner=owner("user:bob"))
    await stores.files.delete("file-1")
    assert await stores.files.append("file-2", 10, bytes(11)) == 21


async def test_files_are_listed_by_pages(stores: Stores):
    for number in range(4):
        await stores.files.create(new_file(f"file-{number}", created_ms=number // 2))
    await stores.files.create(
        new_file("other", owner=owner("user:bob"), purpose=4, job_id="a", created_ms=9)
    )

    async def page(**fields: Any) -> list[str]:
        chosen: dict[str, Any] = {
            "principal": "",
            "purpose": 0,
            "job_id": "",
            "oldest_first": False,
            "after": None,
            "limit": 9,
        }
        found = await stores.files.list(**(chosen | fields))
        return [file.file_id for file in found]

    assert await page() == ["other", "file-3", "file-2", "file-1", "file-0"]
    assert await page(principal="user:ada", limit=2) == ["file-3", "file-2"]
    assert await page(after=(1, "file-2"), limit=2) == ["file-1", "file-0"]
    assert await page(oldest_first=True, after=(0, "file-1")) == ["file-2", "file-3", "other"]
    assert await page(purpose=4) == await page(job_id="a") == ["other"]


async def test_a_file_stays_while_a_job_reads_it(stores: Stores):
    await upload(stores, expires_ms=stores.clock() + 1_000)
    await stores.jobs.submit([new_job("a", input_files=("file-1",))])
    with pytest.raises(IllegalState, match="the job a reads"):
        await stores.files.delete("file-1")
    stores.clock.advance(2)
    assert await stores.files.prune() == 0
    session = await stores.session()
    await tell(stores.jobs, session, await claim_one(stores.jobs, session), completed())
    assert await stores.files.prune() == 1
    with pytest.raises(FileNotFound):
        await stores.files.get("file-1")


async def test_a_job_reads_complete_files_only(stores: Stores):
    await stores.files.create(new_file())
    with pytest.raises(IllegalState, match="not complete"):
        await stores.jobs.submit([new_job("a", input_files=("file-1",))])
    with pytest.raises(FileNotFound):
        await stores.jobs.submit([new_job("a", input_files=("file-2",))])
    assert await stores.count("jobs") == 0


async def test_uploads_that_were_given_up_are_removed(stores: Stores):
    await stores.files.create(new_file())
    stores.clock.advance(DAY_S - 1)
    await stores.files.append("file-1", 0, b"abc")
    stores.clock.advance(DAY_S - 1)
    assert await stores.files.prune() == 0
    stores.clock.advance(1)
    assert await stores.files.prune() == 1
    assert await stores.count("file_pieces") == 0
