"""Jobs, queues, workers and files as tables and lines."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Group
from rich.text import Text

from mlxmesh.job.v1 import file_pb2, job_pb2
from mlxmesh_cli.screen.grid import Column, Grid

MIN_TEXT_CELLS = 20
_STYLES = {
    job_pb2.JOB_STATE_COMPLETED: "green",
    job_pb2.JOB_STATE_FAILED: "red",
    job_pb2.JOB_STATE_CANCELLED: "yellow",
    job_pb2.JOB_STATE_CANCELLING: "yellow",
}


def jobs_table(jobs: Iterable[job_pb2.Job]) -> Grid:
    """One row per job."""
    table = Grid(
        Column("job"),
        Column("state"),
        Column("progress", drop=1),
        Column("queue", drop=2),
        Column("attempt", drop=4, right=True),
        Column("created", drop=3),
        Column("by", drop=5),
        Column("what", min_cells=MIN_TEXT_CELLS),
    )
    for job in jobs:
        table.add(
            job.job_id,
            _state(job.state),
            progress_text(job),
            job.queue,
            str(job.attempt),
            _time(job.create_time),
            job.principal,
            Text(job.failure.message or job.summary),
        )
    return table


def job_view(job: job_pb2.Job) -> Group:
    """A job, its attempts that have ended, and its files."""
    parts: list[Grid | Text | str] = [jobs_table([job])]
    if job.attempts:
        parts += ["", _attempts_table(job.attempts)]
    if job.connector.files:
        parts += ["", *(Text(_made(file)) for file in job.connector.files)]
    for line in (_batch_files(job), _next(job)):
        if line:
            parts += ["", Text(line)]
    return Group(*parts)


def progress_text(job: job_pb2.Job) -> str:
    """Such as `120/500 requests`, `40%`, or nothing."""
    progress = job.progress
    if job.HasField("batch") and job.batch.total:
        done = job.batch.completed + job.batch.failed
        failed = f", {job.batch.failed} failed" if job.batch.failed else ""
        return f"{done}/{job.batch.total}{failed}"
    if job.state == job_pb2.JOB_STATE_COMPLETED:
        # The last report may be older than the end, and a limit of tokens need not be reached.
        return f"{progress.done} tokens" if progress.done and progress.unit == "tokens" else ""
    if progress.total:
        return f"{progress.done}/{progress.total} {progress.unit}".rstrip()
    if progress.done:
        return f"{progress.done} {progress.unit}".rstrip()
    return f"{progress.fraction:.0%}" if progress.fraction else progress.text


def state_line(job: job_pb2.Job) -> Text:
    """One line for each change of a job that is watched."""
    line = Text(f"{datetime.now():%H:%M:%S} ", style="dim")
    line.append_text(_state(job.state))
    for part in (progress_text(job), job.failure.message):
        if part:
            line.append(f"  {part}", style="default")
    return line


def queues_table(queues: Iterable[job_pb2.Queue]) -> Grid:
    """One row per queue."""
    table = Grid(
        Column("queue"),
        *(Column(name, right=True) for name in ("waiting", "delayed", "running", "failed")),
        Column("oldest", right=True, drop=2),
        Column("workers", right=True, drop=3),
        Column("limits", drop=1),
        Column("blocked", min_cells=MIN_TEXT_CELLS, rare=True),
    )
    for queue in queues:
        counts = (queue.waiting, queue.delayed, queue.running, queue.failed)
        table.add(
            queue.name,
            *map(str, counts),
            f"{queue.oldest_waiting_s:.0f} s" if queue.waiting else "",
            str(queue.workers),
            _limits(queue.settings),
            queue.blocked,
        )
    return table


def workers_table(workers: Iterable[job_pb2.Worker]) -> Grid:
    """One row per worker, and one per back end."""
    table = Grid(
        Column("worker"),
        Column("host"),
        Column("running", right=True),
        Column("back end", drop=1),
        Column("state", min_cells=MIN_TEXT_CELLS, drop=1),
    )
    for worker in workers:
        table.add(worker.worker_id, worker.host, f"{worker.running}/{worker.slots}", "", "")
        for end in worker.back_ends:
            state = "healthy" if end.healthy else f"not healthy: {end.reason}"
            table.add("", "", "", f"{end.connector} at {end.address}", state)
    return table


def files_table(files: Iterable[file_pb2.File]) -> Grid:
    """One row per file."""
    table = Grid(
        Column("file"),
        Column("name"),
        Column("size", right=True),
        Column("purpose", drop=2),
        Column("created", drop=3),
        Column("expires", drop=4),
        Column("job", drop=1),
    )
    for file in files:
        purpose = file_pb2.FilePurpose.Name(file.purpose).removeprefix("FILE_PURPOSE_").lower()
        table.add(
            file.file_id,
            file.name,
            f"{file.size_bytes:,}" if file.complete else f"{file.size_bytes:,} so far",
            purpose,
            _time(file.create_time),
            _time(file.expire_time) if file.HasField("expire_time") else "never",
            file.job_id,
        )
    return table


def _attempts_table(attempts: Iterable[job_pb2.JobAttempt]) -> Grid:
    table = Grid(
        Column("attempt", right=True),
        Column("worker", drop=2),
        Column("ended", drop=1),
        Column("recovery"),
        Column("failure", min_cells=MIN_TEXT_CELLS),
    )
    for each in attempts:
        failure = f"{each.failure.reason}: {each.failure.message}" if each.failure.reason else ""
        table.add(
            str(each.attempt), each.worker_id, _time(each.end_time), each.recovery, Text(failure)
        )
    return table


def _made(file: job_pb2.OutputFile) -> str:
    return f"{file.file_id}  {file.name}  {file.media_type}  {file.size_bytes:,} bytes"


def _batch_files(job: job_pb2.Job) -> str:
    ids = (("results", job.batch.output_file_id), ("errors", job.batch.error_file_id))
    return "; ".join(f"{what} in {file_id}" for what, file_id in ids if file_id)


def _next(job: job_pb2.Job) -> str:
    if job.HasField("next_attempt_time"):
        return f"the next attempt begins at {_time(job.next_attempt_time)} or later"
    if job.state == job_pb2.JOB_STATE_FAILED:
        return f"`mlxmesh jobs retry {job.job_id}` runs it again"
    return ""


def _limits(settings: job_pb2.QueueSettings) -> str:
    told = [
        "paused" if settings.paused else "",
        f"{settings.max_running} running" if settings.max_running else "",
        f"{settings.max_running_per_principal} each" if settings.max_running_per_principal else "",
        f"{settings.max_waiting_per_principal} waiting each"
        if settings.max_waiting_per_principal
        else "",
        f"{settings.starts_per_second:g}/s" if settings.starts_per_second else "",
    ]
    return ", ".join(filter(None, told))


def _state(state: job_pb2.JobState.ValueType) -> Text:
    name = job_pb2.JobState.Name(state).removeprefix("JOB_STATE_").lower()
    return Text(name, style=_STYLES.get(state, ""))


def _time(stamp: Timestamp) -> str:
    return stamp.ToDatetime(UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
