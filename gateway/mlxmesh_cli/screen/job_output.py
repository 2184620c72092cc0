"""What a job has made: on the screen, or in files."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mlxmesh.job.v1.job_pb2 import Job, OutputFile, ReadBatchResponse, WatchJobResponse
from mlxmesh_cli.screen.job_tables import state_line
from mlxmesh_cli.screen.output import print_json, print_view, to_dict
from mlxmesh_client import IllegalState

if TYPE_CHECKING:
    from mlxmesh_client import MeshClient


async def write_output(client: MeshClient, job: Job, to: Path | None) -> None:
    """Prints the result of a job, or writes it to a file or folder."""
    match job.WhichOneof("result"):
        case "generation":
            _write_text(job.generation.text, to)
        case "batch":
            await _write_batch(client, job, to)
        case "connector" if to is not None:
            await _write_files(client, job, to)
        case "connector":
            result = json.loads(job.connector.result_json or "null")
            print_json({"result": result, "files": _named(job)})
        case "embedding":
            print_json(to_dict(job.embedding))
        case "request":
            _write_text(job.request.body_json, to)
        case _:
            raise IllegalState(
                f"{job.job_id} has made nothing yet; `mlxmesh jobs watch {job.job_id}` follows it"
            )


def result_line(result: ReadBatchResponse) -> str:
    """The line of a result file, as of OpenAI's batches."""
    line: dict[str, Any] = {
        "id": f"batch_req_{result.number}",
        "custom_id": result.custom_id,
        "response": None,
        "error": None,
    }
    if result.HasField("result"):
        line["response"] = {
            "status_code": result.result.status_code,
            "request_id": result.result.request_id,
            "body": json.loads(result.result.body_json or "{}"),
        }
    else:
        line["error"] = {"code": result.failure.reason, "message": result.failure.message}
    return json.dumps(line, ensure_ascii=False)


async def print_changes(changes: AsyncGenerator[WatchJobResponse]) -> Job:
    """Prints text as it comes and a line for each change of the state; returns the ended job."""
    last: Job | None = None
    said = ""
    in_text = False
    async with aclosing(changes):
        async for change in changes:
            if change.HasField("output"):
                if change.output.HasField("delta"):
                    sys.stdout.write(change.output.delta.text)
                    sys.stdout.flush()
                    in_text = True
                continue
            last = change.job
            line = state_line(last)
            if line.plain[9:] != said and not in_text:
                print_view(line)
            said = line.plain[9:]
    assert last is not None
    if in_text:
        typer.echo()
        print_view(state_line(last))
    return last


def _write_text(text: str, to: Path | None) -> None:
    if to is None:
        typer.echo(text)
    else:
        to.write_text(text)


async def _write_batch(client: MeshClient, job: Job, to: Path | None) -> None:
    """The file of results; before the end, the results that there are."""
    if job.batch.output_file_id and to is not None:
        await write_file(client, job.batch.output_file_id, to)
        return
    lines = [result_line(each) async for each in client.jobs.read_batch(job.job_id)]
    _write_text("\n".join(lines), to)


async def _write_files(client: MeshClient, job: Job, to: Path) -> None:
    files = list(job.connector.files)
    if len(files) == 1 and not to.is_dir():
        await write_file(client, files[0].file_id, to)
        return
    to.mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files, 1):
        await write_file(client, file.file_id, to / _safe_name(number, file))
        typer.echo(to / _safe_name(number, file))


def _safe_name(number: int, file: OutputFile) -> str:
    """A back end's name for a file is no path of ours."""
    name = Path(file.name).name.lstrip(".")
    return f"{number:03}-{name or 'output'}"


async def write_file(client: MeshClient, file_id: str, to: Path) -> None:
    """Fetches a file. An interrupted download leaves no part of it in its place."""
    partial = to.with_name(f"{to.name}.part")
    with partial.open("wb") as file:
        async for piece in client.files.read(file_id):
            file.write(piece)
    partial.replace(to)


def _named(job: Job) -> list[dict[str, object]]:
    return [to_dict(file) for file in job.connector.files]
