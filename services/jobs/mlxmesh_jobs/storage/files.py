"""Files in SQL, in pieces."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from functools import partial

from mlxmesh_jobs.domain.ports import StoredFile
from mlxmesh_jobs.storage import file_rows
from mlxmesh_jobs.storage.database import JobsDatabase
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import IllegalState, InvalidArgument, MeshError
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


class SqlFileStore:
    """Satisfies FileStore."""

    def __init__(self, database: JobsDatabase, *, max_bytes_per_principal: int) -> None:
        """Uses the database, which its caller closes."""
        self._database = database
        self._max_bytes = max_bytes_per_principal

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._database.transactions

    @uncancellable
    async def create(self, file: StoredFile) -> StoredFile:
        async with self.transactions.write() as session:
            known = await file_rows.find(session, file.file_id)
            if known is not None:
                raise IllegalState(f"there is a file {file.file_id} already")
            await file_rows.check_room(session, file.owner.principal, 0, self._max_bytes)
            await file_rows.insert_file(session, file, self._database.clock())
        return file

    @uncancellable
    async def append(self, file_id: str, offset: int, data: bytes) -> int:
        async with self.transactions.write() as session:
            file = await file_rows.existing(session, file_id)
            if offset > file.size_bytes:
                raise IllegalState(
                    f"{file_id} has {file.size_bytes} bytes; the next ones cannot begin at {offset}"
                )
            stored = await file_rows.read_range(
                session, file_id, offset, min(file.size_bytes, offset + len(data))
            )
            if stored != data[: len(stored)]:
                raise IllegalState(f"{file_id} has other bytes at {offset}")
            new = data[len(stored) :]
            if not new:
                return file.size_bytes
            if file.complete:
                raise IllegalState(f"{file_id} is complete already")
            principal = file.owner.principal
            await file_rows.check_room(session, principal, len(new), self._max_bytes)
            await file_rows.append(session, file, new, self._database.clock())
        return file.size_bytes + len(new)

    @uncancellable
    async def finish(self, file_id: str, size_bytes: int, sha256: str) -> StoredFile:
        file = await self.get(file_id)
        if file.complete:
            return _checked(file, size_bytes, sha256)
        digest = hashlib.sha256()
        async for piece in self.read(file_id, 0):
            digest.update(piece)
        async with self.transactions.write() as session:
            now = await file_rows.existing(session, file_id)
            if now.size_bytes != file.size_bytes:
                raise IllegalState(f"{file_id} still grows; finish it when all bytes are appended")
            same = now.size_bytes == size_bytes and sha256 in ("", digest.hexdigest())
            if same:
                return await file_rows.complete(session, now, digest.hexdigest())
            await file_rows.remove(session, [file_id])
        raise _different(file_id, size_bytes, now.size_bytes)

    @uncancellable
    async def get(self, file_id: str) -> StoredFile:
        return await self.transactions.read(partial(file_rows.existing, file_id=file_id))

    @uncancellable
    async def list(
        self,
        *,
        principal: str,
        purpose: int,
        job_id: str,
        oldest_first: bool,
        after: tuple[int, str] | None,
        limit: int,
    ) -> Sequence[StoredFile]:
        return await self.transactions.read(
            partial(
                file_rows.read_page,
                equal={"principal": principal, "purpose": purpose, "job_id": job_id},
                oldest_first=oldest_first,
                after=after,
                limit=limit,
            )
        )

    async def read(self, file_id: str, offset: int) -> AsyncGenerator[bytes]:
        await self.get(file_id)
        while piece := await self._piece(file_id, offset):
            yield piece
            offset += len(piece)

    @uncancellable
    async def delete(self, file_id: str) -> None:
        async with self.transactions.write() as session:
            await file_rows.existing(session, file_id)
            if reader := await file_rows.reader(session, file_id):
                raise IllegalState(f"the job {reader} reads {file_id}; cancel it first")
            await file_rows.remove(session, [file_id])

    async def prune(self) -> int:
        return await self._database.group.run(_prune, None)

    @uncancellable
    async def _piece(self, file_id: str, offset: int) -> bytes:
        return await self.transactions.read(
            partial(file_rows.read_piece, file_id=file_id, offset=offset)
        )


async def _prune(work: Work, asked: Sequence[None]) -> list[int | MeshError]:
    removed = await file_rows.prune(work.session, work.now_ms)
    return [removed, *[0] * (len(asked) - 1)]


def _checked(file: StoredFile, size_bytes: int, sha256: str) -> StoredFile:
    """Raises: InvalidArgument unless the complete file is the expected one, which stays."""
    if file.size_bytes != size_bytes or sha256 not in ("", file.sha256):
        raise _different(file.file_id, size_bytes, file.size_bytes)
    return file


def _different(file_id: str, expected: int, found: int) -> InvalidArgument:
    if expected != found:
        why, field = f"{found} bytes instead of {expected}", "size_bytes"
    else:
        why, field = "another hash than was expected", "sha256"
    return InvalidArgument(f"{file_id} has {why}; upload it again", field=field)
