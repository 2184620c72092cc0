"""Storing new jobs."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mlxmesh_jobs.domain.jobs import NewJob
from mlxmesh_jobs.domain.states import State
from mlxmesh_jobs.storage.details import Details, details_of
from mlxmesh_jobs.storage.queues import limited
from mlxmesh_jobs.storage.records import Record
from mlxmesh_jobs.storage.rows import select
from mlxmesh_jobs.storage.work import Work
from mlxmesh_shared.errors import FileNotFound, IllegalState, JobExists, MeshError, QueueFull

_RETRY_DELAY_S = 5.0
Submission = Sequence[NewJob]


async def submit(work: Work, submissions: Sequence[Submission]) -> list[list[Record] | MeshError]:
    """Stores the jobs of each submission, all or none."""
    every = [job for submission in submissions for job in submission]
    store = _Submitting(work, await _room(work, every), await _files(work, every))
    await store.find(every)
    done = [store.submit(submission) for submission in submissions]
    await store.insert()
    return done


def new_record(
    work: Work, job: NewJob, details: Details, *, batch_key: int = 0, number: int = 0
) -> Record:
    """The record of a new job, without its key."""
    delayed = job.not_before_ms > work.now_ms
    return Record(
        key=0,
        job_id=job.job_id,
        kind=job.kind,
        priority=job.priority,
        batch_key=batch_key,
        number=number,
        created_ms=work.now_ms,
        not_before_ms=job.not_before_ms,
        queue=job.queue,
        principal=job.owner.principal,
        connector=job.connector,
        state=State.DELAYED if delayed else State.WAITING,
        lane=0,
        session=0,
        attempt=0,
        sequence=1,
        change=0,
        outputs=0,
        deadline_ms=job.deadline_ms,
        ready_ms=job.not_before_ms if delayed else 0,
        delay_ms=0,
        started_ms=0,
        attempt_ms=0,
        ended_ms=0,
        expires_ms=0,
        failures=0,
        unavailable=0,
        losses=0,
        cost=0.0,
        worker_id="",
        failure="",
        progress="",
        details=details,
    )


class _Submitting:
    """The jobs that are stored, and those that will be."""

    def __init__(
        self, work: Work, room: Counter[tuple[str, str]] | None, files: Mapping[str, bool]
    ) -> None:
        self._work = work
        self._room = room
        self._files = files
        self._known: dict[str, tuple[Record, bytes]] = {}
        self._new: list[tuple[Record, NewJob]] = []

    async def find(self, jobs: Sequence[NewJob]) -> None:
        """Reads those that are stored."""
        records = await self._work.by_ids(job.job_id for job in jobs)
        keys = [record.key for record in records.values()]
        sql = "SELECT key, digest FROM job_contents WHERE key IN ({wanted})"
        digests = {row["key"]: row["digest"] for row in await select(self._work.session, sql, keys)}
        self._known = {id_: (record, digests[record.key]) for id_, record in records.items()}

    def submit(self, submission: Submission) -> list[Record] | MeshError:
        """The records of a submission; the error if it cannot be stored."""
        found: dict[str, tuple[Record, NewJob]] = {}
        records: list[Record] = []
        try:
            for job in submission:
                record = self._stored(job)
                if record is None:
                    if job.job_id in found:
                        raise _exists(job)
                    _check_files(job, self._files)
                    record = new_record(self._work, job, details_of(job))
                    found[job.job_id] = record, job
                records.append(record)
            self._take_room([job for _, job in found.values()])
        except MeshError as error:
            return error
        self._new += found.values()
        self._known.update({id_: (record, job.digest) for id_, (record, job) in found.items()})
        return records

    async def insert(self) -> None:
        """Stores the new ones."""
        if not self._new:
            return
        keys = await self._work.new_keys(len(self._new))
        for key, (record, job) in zip(keys, self._new, strict=True):
            record.key = key
            self._work.insert(record, job)

    def _stored(self, job: NewJob) -> Record | None:
        """Raises: JobExists for a different one."""
        if job.job_id not in self._known:
            return None
        record, digest = self._known[job.job_id]
        if digest != job.digest or record.details.owner.owner != job.owner.owner:
            raise _exists(job)
        return record

    def _take_room(self, jobs: Sequence[NewJob]) -> None:
        """Raises: QueueFull if they would be too many."""
        if self._room is None:
            return
        wanted = Counter((job.queue, job.owner.principal) for job in jobs)
        for place, count in wanted.items():
            if place in self._room and self._room[place] < count:
                raise QueueFull(
                    f"{place[1]} has as many jobs in the queue {place[0]} as it may have there;"
                    " wait until some have ended",
                    retry_delay_s=_RETRY_DELAY_S,
                )
        for place, count in wanted.items():
            if place in self._room:
                self._room[place] -= count


async def _room(work: Work, jobs: Sequence[NewJob]) -> Counter[tuple[str, str]] | None:
    """How many more jobs of a principal may wait in a queue, where that is limited."""
    queues = await limited(work.session, "max_waiting_per_principal")
    if not queues:
        return None
    room: Counter[tuple[str, str]] = Counter()
    for queue, principal in {(job.queue, job.owner.principal) for job in jobs}:
        if queue in queues:
            sql = (
                "SELECT CAST(COALESCE(SUM(delayed + waiting), 0) AS BIGINT) AS count FROM lanes"
                " WHERE queue = $1 AND principal = $2"
            )
            [row] = await work.session.fetch(sql, queue, principal)
            room[queue, principal] = queues[queue] - row["count"]
    return room


async def _files(work: Work, jobs: Sequence[NewJob]) -> Mapping[str, bool]:
    """The files that the jobs read, and whether they are complete."""
    wanted = sorted({id_ for job in jobs for id_ in job.input_files})
    sql = "SELECT file_id, complete FROM files WHERE file_id IN ({wanted})"
    rows = await select(work.session, sql, wanted)
    return {row["file_id"]: bool(row["complete"]) for row in rows}


def _check_files(job: NewJob, files: Mapping[str, bool]) -> None:
    for file_id in job.input_files:
        if file_id not in files:
            raise FileNotFound(f"there is no file {file_id}")
        if not files[file_id]:
            raise IllegalState(f"the file {file_id} is not complete; finish it first")


def _exists(job: NewJob) -> JobExists:
    return JobExists(f"there is another job {job.job_id}; choose another id", field="job_id")
