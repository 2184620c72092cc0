"""The group `artifacts`: the model files on the model service's host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mlxmesh_cli.commands.completion import complete_model
from mlxmesh_cli.commands.policy_options import parse_seconds
from mlxmesh_cli.commands.session import Address, DataDir, Json, connect, run
from mlxmesh_cli.screen.output import print_json, print_view, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.artifact_pb2 import (
        Artifact,
        ListArtifactsResponse,
        PruneArtifactsResponse,
    )

artifacts = typer.Typer(help="List, verify and prune the files of models.", no_args_is_help=True)

Reference = Annotated[
    str,
    typer.Argument(
        metavar="[MODEL]",
        help="NAME, NAME@VERSION or NAME:ALIAS.  [default: every model]",
        autocompletion=complete_model,
    ),
]


@artifacts.command(
    "list",
    short_help="Show the files of each version and the store's size.",
    epilog="Example: mlxmesh artifacts list --json",
)
def list_artifacts(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """Show the files of each version, how much of them others share, and the store's size."""

    async def work() -> ListArtifactsResponse:
        async with connect(address, data_dir) as client:
            return await client.list_artifacts()

    found = run(work())
    if json:
        print_json(to_dict(found))
        return
    if not found.artifacts:
        typer.echo("no models; add one with `mlxmesh register` or `mlxmesh pull`")
    else:
        from mlxmesh_cli.screen.tables import artifacts_table

        print_view(artifacts_table(found.artifacts))
    typer.echo(f"stored {_size(found.stored_bytes)}, free on the disk {_size(found.free_bytes)}")
    if found.prunable_bytes:
        freed = _size(found.prunable_bytes)
        typer.echo(f"{freed} belong to no version; `mlxmesh artifacts prune` removes them")


@artifacts.command(
    "verify",
    short_help="Read files again and compare them with their digests.",
    epilog="Example: mlxmesh artifacts verify qwen@2",
)
def verify(
    model: Reference = "", address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Read the files of models again and compare them with their digests.

    A version with damaged or missing files cannot be loaded until it is pulled or imported again.
    The exit code is 1 if there is one.
    """

    async def work() -> list[Artifact]:
        from mlxmesh_cli.screen.progress import bytes_bar

        checked: list[Artifact] = []
        async with connect(address, data_dir) as client:
            with bytes_bar(f"verifying {model or 'every model'}", quiet=json) as advance:
                async for step in client.verify_artifacts(model):
                    advance(step.done_bytes, step.total_bytes)
                    if step.HasField("artifact"):
                        checked.append(step.artifact)
        return checked

    checked = run(work())
    if json:
        print_json({"artifacts": [to_dict(artifact) for artifact in checked]})
    elif not checked:
        typer.echo("no files to verify; `mlxmesh artifacts list` shows what there is")
    for artifact in checked if not json else ():
        typer.echo(_verdict(artifact))
    if any(artifact.damaged_files for artifact in checked):
        raise typer.Exit(1)


@artifacts.command(
    "prune",
    short_help="Remove files that belong to no version.",
    epilog="Example: mlxmesh artifacts prune --dry-run",
)
def prune(
    dry_run: Annotated[bool, typer.Option(help="Only show what would be removed.")] = False,
    unfinished_after: Annotated[
        str,
        typer.Option(
            metavar="TIME", help="Remove unfinished downloads after so long without progress."
        ),
    ] = "7d",
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Remove files that belong to no version, and downloads that were given up.

    Runtimes remove what they fetched for versions that are gone.
    """
    unfinished_after_s = parse_seconds(unfinished_after, "--unfinished-after")

    async def work() -> PruneArtifactsResponse:
        async with connect(address, data_dir) as client:
            return await client.prune_artifacts(
                dry_run=dry_run, unfinished_after_s=unfinished_after_s
            )

    removed = run(work())
    if json:
        print_json(to_dict(removed))
        return
    verb = "would be removed" if dry_run else "removed"
    typer.echo(f"{_files(removed.files)} {verb}, {_size(removed.freed_bytes)}")
    if removed.fetched_files:
        fetched = _size(removed.fetched_bytes)
        typer.echo(f"{_files(removed.fetched_files)} {verb} on the hosts of runtimes, {fetched}")


def _verdict(artifact: Artifact) -> str:
    label = f"{artifact.model}@{artifact.version}"
    if not artifact.damaged_files:
        return f"{label} is whole ({_size(artifact.bytes)})"
    damaged = ", ".join(artifact.damaged_files)
    return f"{label} is damaged: {damaged}; pull or import it again before you load it"


def _files(number: int) -> str:
    return f"{number} file{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
