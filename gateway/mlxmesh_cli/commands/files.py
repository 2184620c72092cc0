"""Commands about files of jobs: list, put, get, delete."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.job.v1.file_pb2 import File

files = typer.Typer(help="Store and fetch files of jobs.", no_args_is_help=True)

FileId = Annotated[str, typer.Argument(metavar="ID", help="Id of the file.")]


@files.command("list", short_help="List files.", epilog="Example: mlxmesh files list --job job-1a")
def list_files(
    job: Annotated[str, typer.Option(metavar="ID", help="Only what this job made.")] = "",
    number: Annotated[int, typer.Option("-n", min=1, help="How many at most.")] = 100,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List files, the newest first."""

    async def work() -> list[File]:
        async with connect(address, data_dir) as client:
            return await client.files.list(job_id=job, limit=number)

    found = run(work())
    if json:
        print_json([to_dict(file) for file in found])
        return
    if not found:
        typer.echo("no files; `mlxmesh files put` stores one")
        return
    from mlxmesh_cli.screen.job_tables import files_table

    print_view(files_table(found))


@files.command("put", short_help="Store a file.", epilog="Example: mlxmesh files put photo.png")
def put(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="File to store.")],
    batch: Annotated[
        bool, typer.Option("--batch", help="It has the requests of a batch, one JSON a line.")
    ] = False,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Store a file for jobs to read, and print its id."""

    async def work() -> File:
        from mlxmesh.job.v1.file_pb2 import FILE_PURPOSE_BATCH, FILE_PURPOSE_USER_DATA
        from mlxmesh_cli.screen.progress import bytes_bar

        async with connect(address, data_dir) as client:
            with bytes_bar(f"sending {path.name}", quiet=json) as advance:
                purpose = FILE_PURPOSE_BATCH if batch else FILE_PURPOSE_USER_DATA
                return await client.files.put(path, purpose=purpose, on_progress=advance)

    stored = run(work())
    if json:
        print_json(to_dict(stored))
    else:
        typer.echo(stored.file_id)


@files.command(
    "get", short_help="Fetch a file.", epilog="Example: mlxmesh files get file-1a2b -o image.png"
)
def get(
    file_id: FileId,
    to: Annotated[Path, typer.Option("-o", "--output", help="Where to write it.")],
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Fetch a file. An interrupted download leaves no part of it in its place."""

    async def work() -> None:
        from mlxmesh_cli.screen.job_output import write_file

        async with connect(address, data_dir) as client:
            await write_file(client, file_id, to)

    run(work())
    if json:
        print_json({"file_id": file_id, "path": str(to)})


@files.command(
    "delete", short_help="Remove a file.", epilog="Example: mlxmesh files delete file-1a2b"
)
def delete(
    file_id: FileId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Remove a file that no job needs."""

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await client.files.delete(file_id)

    run(work())
    if json:
        print_json({"file_id": file_id, "deleted": True})
