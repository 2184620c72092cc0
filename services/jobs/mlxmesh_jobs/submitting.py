"""Stores what callers submit."""

from collections.abc import Sequence

from mlxmesh_jobs.callers import Caller
from mlxmesh_jobs.domain.jobs import Job, Kind, NewJob
from mlxmesh_jobs.domain.ports import FileStore, JobStore, StoredFile
from mlxmesh_jobs.files.limits import Purpose
from mlxmesh_shared.errors import FileNotFound, InvalidArgument


class Submitter:
    """Checks that the files of jobs are their callers' own."""

    def __init__(self, store: JobStore, files: FileStore | None) -> None:
        """files: None where no job reads any."""
        self._store = store
        self._files = files

    async def submit(self, caller: Caller, jobs: Sequence[NewJob]) -> list[Job]:
        """Stores jobs, all or none. Raises: as JobStore.submit; FileNotFound, InvalidArgument."""
        if self._files is not None:
            for job in jobs:
                for file_id in job.input_files:
                    _check(caller, job, await self._files.get(file_id))
        return await self._store.submit(jobs)


def _check(caller: Caller, job: NewJob, file: StoredFile) -> None:
    if not caller.sees_all and file.owner.principal != caller.owner.principal:
        raise FileNotFound("there is no such file, or it is another caller's", field="file_id")
    if job.kind is Kind.BATCH and file.purpose != Purpose.BATCH:
        raise InvalidArgument(
            "the input of a batch must have the purpose FILE_PURPOSE_BATCH",
            field="batch.input_file_id",
        )
