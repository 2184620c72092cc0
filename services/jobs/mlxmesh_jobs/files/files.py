"""Files of callers and of jobs: who may see, make and change which."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from mlxmesh_jobs.clock import Clock
from mlxmesh_jobs.domain.jobs import Owner
from mlxmesh_jobs.domain.ports import FileStore, JobStore, StoredFile
from mlxmesh_jobs.files.limits import JOB_RETENTION_S, FileLimits, Purpose, checked_purpose
from mlxmesh_shared.errors import FileNotFound, IllegalState, InvalidArgument


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """Who asks for files."""

    owner: Owner
    sees_all: bool = False
    """An admin, or a process of the mesh."""
    is_worker: bool = False
    """Whether the call came through no gateway."""

    def sees(self, file: StoredFile) -> bool:
        """Whether the file exists as far as this caller is concerned."""
        return self.sees_all or file.owner.principal == self.owner.principal


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """A file to begin."""

    name: str
    purpose: int
    media_type: str = ""
    expires_after_s: int = 0
    """0 for the default."""
    job_id: str = ""


class Files:
    """What FileService does."""

    def __init__(
        self, store: FileStore, jobs: JobStore, limits: FileLimits, *, clock: Clock
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._limits = limits
        self._clock = clock

    async def create(self, viewer: Viewer, wanted: NewFile) -> StoredFile:
        """Begins a file. Raises: InvalidArgument, JobNotFound, DiskFull, FilesFull."""
        if wanted.job_id and not viewer.is_worker:
            raise InvalidArgument("job_id is set by workers only", field="job_id")
        if viewer.is_worker and not wanted.job_id:
            raise InvalidArgument("job_id is required of a worker", field="job_id")
        purpose = checked_purpose(wanted.purpose, by_worker=viewer.is_worker)
        owner = viewer.owner
        if wanted.job_id:
            # A worker acts for the job, whatever else it says.
            owner = (await self._jobs.get(wanted.job_id)).owner
        now_ms = self._clock()
        kept_s = wanted.expires_after_s or (JOB_RETENTION_S if wanted.job_id else 0)
        return await self._store.create(
            StoredFile(
                file_id=f"file-{secrets.token_hex(12)}",
                name=wanted.name,
                purpose=purpose,
                size_bytes=0,
                sha256="",
                media_type=wanted.media_type,
                complete=False,
                owner=owner,
                created_ms=now_ms,
                expires_ms=now_ms + kept_s * 1000 if kept_s else 0,
                job_id=wanted.job_id,
            )
        )

    async def append(self, viewer: Viewer, file_id: str, offset: int, data: bytes) -> int:
        """The size after it.

        Raises: FileNotFound, IllegalState, MessageTooLarge, DiskFull, FilesFull.
        """
        file = await self.get(viewer, file_id)
        end = offset + len(data)
        self._limits.check_size(file.purpose, end)
        if file.purpose == Purpose.JOB_OUTPUT and end > file.size_bytes:
            self._limits.check_outputs(await self._others_bytes(file) + end)
        return await self._store.append(file_id, offset, data)

    async def finish(
        self, viewer: Viewer, file_id: str, size_bytes: int, sha256: str
    ) -> StoredFile:
        """Completes a file. Raises: FileNotFound, InvalidArgument."""
        await self.get(viewer, file_id)
        return await self._store.finish(file_id, size_bytes, sha256)

    async def get(self, viewer: Viewer, file_id: str) -> StoredFile:
        """Raises: FileNotFound, also for a file of another caller."""
        try:
            file = await self._store.get(file_id)
        except FileNotFound:
            raise _unknown() from None
        if not viewer.sees(file):
            raise _unknown()
        return file

    async def list(
        self,
        viewer: Viewer,
        *,
        purpose: int,
        job_id: str,
        oldest_first: bool,
        after: tuple[int, str] | None,
        limit: int,
    ) -> Sequence[StoredFile]:
        """Those that the caller sees, after a position."""
        return await self._store.list(
            principal="" if viewer.sees_all else viewer.owner.principal,
            purpose=purpose,
            job_id=job_id,
            oldest_first=oldest_first,
            after=after,
            limit=limit,
        )

    async def read(self, viewer: Viewer, file_id: str, offset: int) -> AsyncGenerator[bytes]:
        """Its bytes from an offset. Raises: FileNotFound, IllegalState while it is not complete."""
        file = await self.get(viewer, file_id)
        check_complete(file)
        if offset > file.size_bytes:
            raise InvalidArgument(
                f"offset must be at most the size, which is {file.size_bytes}", field="offset"
            )
        async for piece in self._store.read(file_id, offset):
            yield piece

    async def delete(self, viewer: Viewer, file_id: str) -> None:
        """Raises: FileNotFound, IllegalState for one that a job reads."""
        await self.get(viewer, file_id)
        await self._store.delete(file_id)

    async def _others_bytes(self, file: StoredFile) -> int:
        """The size of the other files of a file's job."""
        files = await self._store.list(
            principal="",
            purpose=0,
            job_id=file.job_id,
            oldest_first=True,
            after=None,
            limit=1000,
        )
        return sum(one.size_bytes for one in files if one.file_id != file.file_id)


def check_complete(file: StoredFile) -> None:
    """Raises: IllegalState."""
    if not file.complete:
        raise IllegalState(f"the file {file.file_id} is not complete")


def _unknown() -> FileNotFound:
    return FileNotFound("there is no such file, or it is another caller's", field="file_id")
