"""Runs a batch: checks its file, stores its requests, waits for them, and writes their results."""

import asyncio

from mlxmesh_jobs.batches.assembly import new_file_id, output_file, write_results
from mlxmesh_jobs.batches.convert import (
    BatchFiles,
    BatchWork,
    failure_of,
    from_claim,
    from_result,
    to_outcome,
    to_request,
    to_result,
)
from mlxmesh_jobs.batches.expansion import find_errors, store_requests
from mlxmesh_jobs.batches.input import Expected, InputError
from mlxmesh_jobs.clock import Clock
from mlxmesh_jobs.domain.jobs import BatchCounts, Claim, Completed, Failed
from mlxmesh_jobs.domain.ports import BatchStore, FileStore, JobStore, StoredFile
from mlxmesh_jobs.domain.recovery import Fault
from mlxmesh_jobs.files.limits import Purpose
from mlxmesh_shared.errors import FileNotFound, FilesFull, InvalidArgument, MeshError

LOOK_S = 5.0
"""How often the counts are read when nothing is heard of a change."""
PAUSE_S = 0.1
"""Between two looks, since a batch changes with each of its requests."""


class Batches:
    """Satisfies BatchRunner. An attempt goes on from what earlier ones have stored."""

    def __init__(
        self,
        jobs: JobStore,
        batches: BatchStore,
        files: FileStore,
        *,
        clock: Clock,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._jobs = jobs
        self._batches = batches
        self._files = files
        self._clock = clock
        self._pause_s = pause_s

    async def run(self, claim: Claim) -> Completed | Failed:
        work = from_claim(claim)
        try:
            await self._expand(claim, work)
        except _WrongInput as wrong:
            await self._batches.set_result(claim.id, to_result(BatchFiles(), wrong.errors))
            return Failed(failure=failure_of(wrong.error), fault=Fault.JOB)
        await self._requests_ended(claim.id.job_id)
        try:
            return await self._assemble(claim)
        except FilesFull as error:
            # Nobody but the owner can make room. A retry then writes the files alone.
            return Failed(failure=failure_of(error), fault=Fault.JOB)

    async def _expand(self, claim: Claim, work: BatchWork) -> None:
        """Stores all requests. Raises: _WrongInput."""
        job = await self._jobs.get(claim.id.job_id)
        if job.batch is not None and job.batch.total:
            return
        models = () if claim.owner.is_admin else claim.owner.models
        expected = Expected(endpoint=work.endpoint, models=models)
        await self._check_file(claim, work.input_file_id)
        _, stored = await self._batches.read_bytes(claim.id.job_id)
        if not stored and (errors := await find_errors(self._files, work.input_file_id, expected)):
            first = errors[0]
            where = f"line {first.line}: " if first.line else ""
            text = f"the input file is invalid; {where}{first.message}"
            raise _WrongInput(InvalidArgument(text, field="batch.input_file_id"), errors)
        await store_requests(
            self._batches,
            self._files,
            claim.id,
            work.input_file_id,
            expected,
            encode=to_request,
            max_running=work.max_running,
        )

    async def _check_file(self, claim: Claim, file_id: str) -> None:
        """The store has checked that it is complete. Raises: _WrongInput."""
        file = await self._files.get(file_id)
        if not _may_read(claim, file):
            raise _wrong_file(FileNotFound, "file_not_found", "there is no such input file")
        if file.purpose != Purpose.BATCH:
            raise _wrong_file(
                InvalidArgument, "invalid_purpose", "the input file must be for batches"
            )

    async def _requests_ended(self, job_id: str) -> BatchCounts:
        """The counts once every request has ended."""
        with self._jobs.subscribe() as changed:
            while True:
                changed.clear()
                counts = (await self._jobs.get(job_id)).batch
                if counts is not None and counts.ended:
                    return counts
                try:
                    async with asyncio.timeout(LOOK_S):
                        await changed.wait()
                except TimeoutError:
                    continue
                await asyncio.sleep(self._pause_s)

    async def _assemble(self, claim: Claim) -> Completed:
        job_id = claim.id.job_id
        planned = from_result(await self._jobs.result(job_id))
        if not planned.output_file_id:
            planned = BatchFiles(output_file_id=new_file_id(), error_file_id=new_file_id())
            # Whoever goes on with this writes the same files.
            await self._batches.set_result(claim.id, to_result(planned))
        results, errors = await write_results(
            self._batches,
            self._files,
            job_id,
            results=self._output(claim, planned.output_file_id, f"{job_id}_output.jsonl"),
            errors=self._output(claim, planned.error_file_id, f"{job_id}_error.jsonl"),
            read=to_outcome,
        )
        made = BatchFiles(
            output_file_id="" if results is None else results.file_id,
            error_file_id="" if errors is None else errors.file_id,
        )
        return Completed(result=to_result(made))

    def _output(self, claim: Claim, file_id: str, name: str) -> StoredFile:
        return output_file(
            file_id, name, owner=claim.owner, batch_id=claim.id.job_id, clock=self._clock
        )


class _WrongInput(Exception):
    """The input file has errors."""

    def __init__(self, error: MeshError, errors: list[InputError]) -> None:
        super().__init__()
        self.error = error
        self.errors = errors


def _wrong_file(kind: type[MeshError], code: str, text: str) -> _WrongInput:
    return _WrongInput(kind(text, field="batch.input_file_id"), [InputError(0, code, text)])


def _may_read(claim: Claim, file: StoredFile) -> bool:
    return claim.owner.is_admin or file.owner.principal == claim.owner.principal
