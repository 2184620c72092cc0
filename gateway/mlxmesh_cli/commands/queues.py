"""Commands about queues and workers: list, set, workers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.job.v1.job_pb2 import Queue, Worker

queues = typer.Typer(help="Look at the queues of jobs, and limit them.", no_args_is_help=True)


@queues.command("list", short_help="List queues.", epilog="Example: mlxmesh queues list")
def list_queues(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the queues with their jobs, limits, and why no job starts."""

    async def work() -> Sequence[Queue]:
        async with connect(address, data_dir) as client:
            return await client.jobs.list_queues()

    _print(run(work()), json=json)


@queues.command(
    "set",
    short_help="Change the limits of a queue.",
    epilog="Example: mlxmesh queues set nightly --max-running 8 --starts-per-second 2",
)
def set_queue(
    name: Annotated[str, typer.Argument(help="Name of the queue.")],
    paused: Annotated[
        bool | None, typer.Option("--pause/--resume", help="Whether no job starts.")
    ] = None,
    max_running: Annotated[
        int | None, typer.Option(min=0, help="Jobs that run at once; 0 for no limit.")
    ] = None,
    max_running_each: Annotated[
        int | None, typer.Option(min=0, help="Jobs of one principal at once; 0 for no limit.")
    ] = None,
    max_waiting_each: Annotated[
        int | None, typer.Option(min=0, help="Waiting jobs of one principal; 0 for no limit.")
    ] = None,
    starts_per_second: Annotated[
        float | None, typer.Option(min=0, help="Jobs that start in a second; 0 for no limit.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option(min=0, help="Jobs that may start at once after a pause.")
    ] = None,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Change what is given; other limits stay. For admins."""
    given: dict[str, Any] = {
        "paused": paused,
        "max_running": max_running,
        "max_running_per_principal": max_running_each,
        "max_waiting_per_principal": max_waiting_each,
        "starts_per_second": starts_per_second,
        "burst": burst,
    }

    async def work() -> Queue:
        from mlxmesh.job.v1.job_pb2 import QueueSettings
        from mlxmesh_client import QueueNotFound, ServiceUnavailable

        async with connect(address, data_dir) as client:
            settings = QueueSettings()
            # It may be new, or the first one of this mesh.
            with suppress(QueueNotFound, ServiceUnavailable):
                settings.CopyFrom((await client.jobs.get_queue(name)).settings)
            for field, value in given.items():
                if value is not None:
                    setattr(settings, field, value)
            return await client.jobs.set_queue(name, settings)

    _print([run(work())], json=json)


@queues.command(
    "workers",
    short_help="List workers and their back ends.",
    epilog="Example: mlxmesh queues workers",
)
def workers(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List the connected workers and the health of their back ends. For admins."""

    async def work() -> Sequence[Worker]:
        async with connect(address, data_dir) as client:
            return await client.jobs.list_workers()

    found = run(work())
    if json:
        print_json([to_dict(worker) for worker in found])
        return
    from mlxmesh_cli.screen.job_tables import workers_table

    print_view(workers_table(found))


def _print(found: Sequence[Queue], *, json: bool) -> None:
    if json:
        print_json([to_dict(queue) for queue in found])
        return
    if not found:
        typer.echo("no queues; the first job makes one")
        return
    from mlxmesh_cli.screen.job_tables import queues_table

    print_view(queues_table(found))
