"""Commands about batches: run."""

from __future__ import annotations

import json as json_module
from collections.abc import AsyncGenerator
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.job_options import Priority, Queue
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.job.v1.job_pb2 import Job, ReadBatchResponse
    from mlxmesh_client import MeshClient

batch = typer.Typer(help="Run a file of requests.", no_args_is_help=True)

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings")


@batch.command(
    "run",
    short_help="Run every request of a file, at half price.",
    epilog="Example: mlxmesh batch run requests.jsonl -o results.jsonl",
)
def run_batch(
    file: Annotated[
        Path, typer.Argument(help="Requests in the format of OpenAI's batches, one JSON a line.")
    ],
    to: Annotated[
        Path, typer.Option("-o", "--output", help="File for the results, in the requests' order.")
    ],
    endpoint: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Path of every request, such as /v1/chat/completions.  [default: that of the"
            " first line]",
        ),
    ] = "",
    max_running: Annotated[
        int,
        typer.Option(
            min=0, max=4096, show_default=False, help="Requests at once.  [default: as many as fit]"
        ),
    ] = 0,
    job_id: Annotated[
        str, typer.Option("--id", help="Id of the batch.  [default: by the file's content]")
    ] = "",
    queue: Queue = "",
    priority: Priority = 0,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Run every request of a file and write each result as soon as those before it are there.

    The batch goes on without this command. Run the same command again to go on with the same
    output: results that are there are not fetched again. Requests use what other work leaves of
    the engines, and cost half. Exits with 1 if a request failed; its line in the output says why.
    """
    chosen = endpoint or _endpoint_of(file)
    if chosen not in ENDPOINTS:
        raise typer.BadParameter(f"must be one of {', '.join(ENDPOINTS)}", param_hint="--endpoint")
    name = job_id or _id_of(file, chosen)

    async def work() -> Job:
        async with connect(address, data_dir) as client:
            await _submitted(client, file, chosen, max_running, name, queue, priority, quiet=json)
            return await _write_results(client, name, to, quiet=json)

    ended = run(work())
    if json:
        print_json(to_dict(ended))
    else:
        _report(ended, to)
    if ended.batch.failed or to_dict(ended)["state"] != "completed":
        raise typer.Exit(1)


def _endpoint_of(file: Path) -> str:
    """The path of the first request."""
    try:
        with file.open() as lines:
            first = json_module.loads(lines.readline())
        return str(first["url"])
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        fail(f"the first line of {file} is no request with a `url`; see docs/jobs.md")


def _id_of(file: Path, endpoint: str) -> str:
    """The same file is the same batch, so that the command can be repeated."""
    digest = sha256(endpoint.encode())
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return f"batch-{digest.hexdigest()[:24]}"


async def _submitted(
    client: MeshClient,
    file: Path,
    endpoint: str,
    max_running: int,
    name: str,
    queue: str,
    priority: int,
    *,
    quiet: bool,
) -> None:
    """Stores the file and the batch, unless an earlier run of the command has."""
    from mlxmesh_cli.screen.progress import bytes_bar
    from mlxmesh_client import JobNotFound, ServiceUnavailable

    try:
        await client.jobs.get(name)
        return
    except (JobNotFound, ServiceUnavailable):
        pass  # it is new, or the first one of this mesh
    with bytes_bar(f"sending {file.name}", quiet=quiet) as advance:
        stored = await client.files.put(file, expires_after_s=30 * 86_400, on_progress=advance)
    await client.jobs.submit_batch(
        stored.file_id,
        endpoint=endpoint,
        max_running=max_running,
        job_id=name,
        queue=queue,
        priority=priority,
    )


async def _write_results(client: MeshClient, name: str, to: Path, *, quiet: bool) -> Job:
    """Appends results to the output from where it ends; returns the ended batch."""
    from mlxmesh_cli.screen.job_output import result_line
    from mlxmesh_cli.screen.progress import counting_bar

    written = _whole_lines(to)
    with to.open("a") as output, counting_bar(name, quiet=quiet) as advance:
        async for result in _results(client, name, written, advance):
            output.write(result_line(result) + "\n")
            output.flush()
        ended = await client.jobs.wait(name)
        advance(ended.batch.completed + ended.batch.failed, ended.batch.total)
    return ended


async def _results(
    client: MeshClient, name: str, written: int, advance: Any
) -> AsyncGenerator[ReadBatchResponse]:
    total = 0
    async for result in client.jobs.read_batch(name, after=written, follow=True):
        if not total:
            total = (await client.jobs.get(name)).job.batch.total
        yield result
        advance(result.number, total)


def _whole_lines(to: Path) -> int:
    """How many results the output has; half a line at its end is removed."""
    if not to.exists():
        return 0
    content = to.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        with to.open("r+b") as file:
            file.truncate(end)
    return content[:end].count(b"\n")


def _report(ended: Job, to: Path) -> None:
    counts = ended.batch
    if ended.failure.message:
        for error in counts.errors:
            say(f"line {error.line}: {error.message}", err=True)
        fail(ended.failure.message, reason=ended.failure.reason)
    typer.echo(
        f"{counts.completed} of {counts.total} requests completed, {counts.failed} failed;"
        f" {counts.prompt_tokens:,} prompt and {counts.completion_tokens:,} generated tokens"
        + (f"; cost {ended.cost:g}" if ended.cost else "")
        + f"; results in {to}"
    )
