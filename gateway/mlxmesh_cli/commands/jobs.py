"""Commands about jobs: submit, list, show, watch, output, cancel, retry, start."""

from __future__ import annotations

import json as json_module
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mlxmesh_cli.commands.failures import fail
from mlxmesh_cli.commands.generation_options import (
    MaxTokens,
    Model,
    Seed,
    System,
    Temperature,
    options_given,
)
from mlxmesh_cli.commands.job_options import (
    After,
    Attempts,
    AttemptTimeout,
    Before,
    JobId,
    JobLabel,
    NewJobId,
    Priority,
    Queue,
    enum_values,
    job_options,
    pairs_of,
)
from mlxmesh_cli.commands.session import (
    Address,
    DataDir,
    Json,
    JsonLines,
    ask,
    connect,
    gateway_address,
    run,
    tls_of,
)
from mlxmesh_cli.mesh.location import resolve_data_dir
from mlxmesh_cli.screen.output import print_json, print_json_line, print_view, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.job.v1.job_pb2 import Job, SubmitJobRequest
    from mlxmesh_client import MeshClient

jobs = typer.Typer(help="Run work that outlives the command: durable jobs.", no_args_is_help=True)

STATES = ("delayed", "waiting", "running", "cancelling", "completed", "failed", "cancelled")
KINDS = ("generation", "batch", "embedding", "connector", "request")


@jobs.command(
    "submit",
    short_help="Submit a job.",
    epilog='Example: mlxmesh jobs submit "Tell me a story." -m qwen --queue nightly --wait',
)
def submit(
    prompt: Annotated[
        str | None,
        typer.Argument(help="Prompt of a generation; `-` reads standard input."),
    ] = None,
    model: Model = None,
    system: System = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    connector: Annotated[
        str, typer.Option(metavar="NAME", help="Connector, for work of another back end.")
    ] = "",
    operation: Annotated[
        str, typer.Option(metavar="NAME", help="The connector's operation.  [default: its first]")
    ] = "",
    arguments: Annotated[
        str,
        typer.Option(metavar="JSON|@FILE", help="Arguments of the operation, a JSON object."),
    ] = "",
    file: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="File that the operation reads; may be repeated."),
    ] = None,
    request: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The whole SubmitJobRequest as JSON, for any kind of job."
        ),
    ] = None,
    job_id: NewJobId = "",
    queue: Queue = "",
    priority: Priority = 0,
    not_before: After = None,
    deadline: Before = None,
    attempts: Attempts = 0,
    attempt_timeout: AttemptTimeout = 0,
    label: JobLabel = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end; exit with 1 if it failed.")
    ] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Submit a generation, or work for another back end, as a durable job.

    Once the command returns the job is stored, and ends whatever process dies. The first job of a
    mesh starts its jobs service and a worker.

    Further example: mlxmesh jobs submit --connector a1111_http --arguments '{"prompt": "a cat"}'
    """
    given = [prompt is not None, bool(connector), request is not None]
    if sum(given) != 1:
        fail("name one of: a prompt, --connector, --request")
    options = job_options(
        job_id, queue, priority, not_before, deadline, attempts, attempt_timeout, label
    )

    async def work() -> Job:
        async with connect(address, data_dir) as client:
            if request is not None:
                job = await client.jobs.submit(_parsed(request))
            elif connector:
                job = await client.jobs.submit_connector(
                    connector,
                    operation=operation,
                    arguments=_arguments(arguments),
                    input_file_ids=await _stored(client, file),
                    **options,
                )
            else:
                wanted = options_given(max_tokens, temperature, None, None, seed, None)
                job = await _generation(client, prompt or "", model, system, wanted, options)
            return await client.jobs.wait(job.job_id) if wait else job

    job = run(work())
    _show_submitted(job, json=json)
    if wait:
        _exit_with(job)


@jobs.command("list", short_help="List jobs.", epilog="Example: mlxmesh jobs list --state failed")
def list_jobs(
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(STATES), help="Only jobs in this state; may be repeated."),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="|".join(KINDS), help="Only jobs of this kind; may be repeated."),
    ] = None,
    queue: Queue = "",
    batch: Annotated[
        str, typer.Option(metavar="ID", help="The requests of this batch, in their order.")
    ] = "",
    principal: Annotated[
        str, typer.Option(metavar="NAME", help="Only jobs of this principal, such as user:ada.")
    ] = "",
    label: JobLabel = None,
    number: Annotated[int, typer.Option("-n", min=1, help="How many at most.")] = 100,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List jobs, the newest first: your own, or as an admin everybody's."""
    from mlxmesh.job.v1.job_pb2 import JobKind, JobState

    states = enum_values(JobState, state, STATES, "--state")
    kinds = enum_values(JobKind, kind, KINDS, "--kind")

    async def work() -> list[Job]:
        async with connect(address, data_dir) as client:
            return await client.jobs.list(
                states=states,
                kinds=kinds,
                queue=queue,
                batch_id=batch,
                principal=principal,
                labels=pairs_of(label, "--label"),
                limit=number,
            )

    found = run(work())
    if json:
        print_json([to_dict(job) for job in found])
        return
    if not found:
        typer.echo("no jobs; `mlxmesh jobs submit` and `mlxmesh batch run` make some")
        return
    from mlxmesh_cli.screen.job_tables import jobs_table

    print_view(jobs_table(found))


@jobs.command("show", short_help="Show one job.", epilog="Example: mlxmesh jobs show job-1a2b")
def show(
    job_id: JobId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Show a job with its attempts; `mlxmesh jobs output` prints its result."""

    async def work() -> Job:
        async with connect(address, data_dir) as client:
            return (await client.jobs.get(job_id)).job

    _print(run(work()), json=json)


@jobs.command(
    "output",
    short_help="Print what a job has made.",
    epilog="Example: mlxmesh jobs output job-1a2b -o image.png",
)
def output(
    job_id: JobId,
    to: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File for the result, or folder for several files."),
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Print a generation's text so far, a connector's result as JSON, a batch's results.

    Files that a connector made are written to --output.
    """

    async def work() -> None:
        from mlxmesh_cli.screen.job_output import write_output

        async with connect(address, data_dir) as client:
            job = (await client.jobs.get(job_id)).job
            if json:
                result = job.WhichOneof("result")
                print_json(to_dict(getattr(job, result)) if result else None)
            else:
                await write_output(client, job, to)

    run(work())


@jobs.command(
    "watch",
    short_help="Follow a job to its end.",
    epilog="Example: mlxmesh jobs watch job-1a2b",
)
def watch(
    job_id: JobId,
    after: Annotated[
        int, typer.Option(min=0, help="Resume after the message with this sequence number.")
    ] = 0,
    address: Address = None,
    data_dir: DataDir = None,
    json: JsonLines = False,
) -> None:
    """Follow a job to its end: the text of a generation as it comes, else a line per change.

    Lost connections are made again. Exits with 1 if the job failed or was cancelled.
    """

    async def work() -> Job:
        from mlxmesh_cli.screen.job_output import print_changes

        async with connect(address, data_dir) as client:
            changes = client.jobs.watch(job_id, after_sequence=after)
            if not json:
                return await print_changes(changes)
            last = None
            async for change in changes:
                print_json_line(to_dict(change))
                last = change.job if change.HasField("job") else last
            assert last is not None
            return last

    _exit_with(run(work()))


@jobs.command("cancel", short_help="Cancel a job.", epilog="Example: mlxmesh jobs cancel job-1a2b")
def cancel(
    job_id: JobId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Cancel a job, or all requests of a batch that have not ended."""
    _ask(lambda client: client.jobs.cancel(job_id), address, data_dir, json)


@jobs.command(
    "retry",
    short_help="Run a job again that failed or was cancelled.",
    epilog="Example: mlxmesh jobs retry job-1a2b",
)
def retry(
    job_id: JobId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Run a job again that failed or was cancelled; of a batch, only requests without a result."""
    _ask(lambda client: client.jobs.retry(job_id), address, data_dir, json)


@jobs.command(
    "start", short_help="Start the jobs service of this host.", epilog="Example: mlxmesh jobs start"
)
def start(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Start the jobs service and a worker; the first job does so too."""
    from mlxmesh_cli.mesh.jobs_start import start_jobs

    gateway = gateway_address(address, data_dir)
    directory = resolve_data_dir(data_dir)
    started = run(start_jobs(directory, gateway, tls_of(directory, gateway)))
    if json:
        print_json({"started": started})
    else:
        typer.echo("the jobs service runs" + ("" if started else " already"))


async def _generation(
    client: MeshClient,
    prompt: str,
    model: str | None,
    system: str | None,
    wanted: dict[str, Any],
    options: Any,
) -> Job:
    from mlxmesh_cli.screen.responses import default_model
    from mlxmesh_client.request import generate_request

    text = sys.stdin.read() if prompt == "-" else prompt
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    name = model or await default_model(client)
    built = generate_request(name, {"messages": messages, **wanted})  # pyright: ignore[reportArgumentType]
    return await client.jobs.submit_generation(built, **options)


async def _stored(client: MeshClient, files: list[str] | None) -> dict[str, str]:
    """The ids of the files, once they are stored."""
    from mlxmesh.job.v1.file_pb2 import FILE_PURPOSE_USER_DATA

    ids: dict[str, str] = {}
    for name, path in pairs_of(files, "--file").items():
        stored = await client.files.put(Path(path), purpose=FILE_PURPOSE_USER_DATA)
        ids[name] = stored.file_id
    return ids


def _arguments(text: str) -> dict[str, Any]:
    try:
        given = Path(text[1:]).read_text() if text.startswith("@") else text or "{}"
        parsed: Any = json_module.loads(given)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--arguments") from None
    if not isinstance(parsed, dict):
        raise typer.BadParameter("must be a JSON object", param_hint="--arguments")
    return cast("dict[str, Any]", parsed)


def _parsed(path: Path) -> SubmitJobRequest:
    from google.protobuf.json_format import Parse, ParseError

    from mlxmesh.job.v1.job_pb2 import SubmitJobRequest

    try:
        return Parse(path.read_text(), SubmitJobRequest())
    except (OSError, ParseError) as error:
        raise typer.BadParameter(str(error), param_hint="--request") from None


def _show_submitted(job: Job, *, json: bool) -> None:
    if json or to_dict(job)["state"] in ("completed", "failed", "cancelled"):
        _print(job, json=json)
        return
    typer.echo(job.job_id)
    say(f"`mlxmesh jobs watch {job.job_id}` follows it", err=True, dim=True)


def _ask(
    call: Callable[[MeshClient], Awaitable[Job]],
    address: str | None,
    data_dir: Path | None,
    json: bool,
) -> None:
    _print(ask(call, address, data_dir), json=json)


def _print(job: Job, *, json: bool) -> None:
    if json:
        print_json(to_dict(job))
        return
    from mlxmesh_cli.screen.job_tables import job_view

    print_view(job_view(job))


def _exit_with(job: Job) -> None:
    from mlxmesh.job.v1.job_pb2 import JOB_STATE_COMPLETED

    if job.state != JOB_STATE_COMPLETED:
        raise typer.Exit(1)
