"""The group `downloads`: what is downloaded in the background; and the search of a hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from mlxmesh_cli.commands.session import Address, DataDir, Json, JsonLines, ask, connect, run
from mlxmesh_cli.screen.output import print_json, print_json_line, print_view, say, to_dict

if TYPE_CHECKING:
    from mlxmesh.model.v1.hub_pb2 import Download, SearchHubResponse
    from mlxmesh_client import MeshClient

downloads = typer.Typer(help="Downloads of models in the background.", no_args_is_help=True)

DownloadId = Annotated[
    str,
    typer.Argument(metavar="ID", help="Id of the download; `mlxmesh downloads list` shows it."),
]


@downloads.command(
    "list",
    short_help="List downloads, the newest first.",
    epilog="Example: mlxmesh downloads list --json",
)
def list_downloads(address: Address = None, data_dir: DataDir = None, json: Json = False) -> None:
    """List downloads, the newest first; those that have completed for a week."""

    async def work() -> list[Download]:
        async with connect(address, data_dir) as client:
            return await client.list_downloads()

    found = [to_dict(each) for each in run(work())]
    if json:
        print_json({"downloads": found})
    elif not found:
        typer.echo("no downloads; start one with `mlxmesh pull OWNER/NAME --background`")
    else:
        from mlxmesh_cli.screen.hub_tables import downloads_table

        print_view(downloads_table(found))


@downloads.command(
    "pause", short_help="Pause it.", epilog="Example: mlxmesh downloads pause d-3f2a91c07b44"
)
def pause(
    download_id: DownloadId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Pause a download; what is on disk stays."""
    _ask(lambda client: client.pause_download(download_id), "is paused", address, data_dir, json)


@downloads.command(
    "resume",
    short_help="Go on with it.",
    epilog="Example: mlxmesh downloads resume d-3f2a91c07b44",
)
def resume(
    download_id: DownloadId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Go on with a download that was paused or failed."""
    _ask(lambda client: client.resume_download(download_id), "goes on", address, data_dir, json)


@downloads.command(
    "cancel",
    short_help="Cancel it, and remove what it has on disk.",
    epilog="Example: mlxmesh downloads cancel d-3f2a91c07b44",
)
def cancel(
    download_id: DownloadId, address: Address = None, data_dir: DataDir = None, json: Json = False
) -> None:
    """Cancel a download and remove what it has on disk; the model of a completed one stays."""

    async def work() -> None:
        async with connect(address, data_dir) as client:
            await client.delete_download(download_id)

    run(work())
    if json:
        print_json({"deleted": download_id})
    else:
        typer.echo(f"{download_id} is cancelled")


@downloads.command(
    "watch",
    short_help="Follow downloads until all have ended.",
    epilog="Example: mlxmesh downloads watch",
)
def watch(
    download_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="Only this one.  [default: all]")
    ] = "",
    address: Address = None,
    data_dir: DataDir = None,
    json: JsonLines = False,
) -> None:
    """Follow downloads with a progress bar each, until none of them waits or runs.

    Exit code 1 tells that one of them failed.
    """
    if run(_follow(download_id, address, data_dir, json)):
        raise typer.Exit(1)


async def _follow(download_id: str, address: str | None, data_dir: Path | None, json: bool) -> bool:
    """Whether one of the downloads that were followed has failed."""
    from mlxmesh_cli.screen.hub_tables import download_bars
    from mlxmesh_shared.errors import DownloadNotFound

    known: dict[str, Download] = {}
    async with connect(address, data_dir) as client:
        with download_bars(quiet=json) as show:
            async with aclosing(client.watch_downloads()) as messages:
                async for message in messages:
                    for each in message.downloads:
                        if download_id in ("", each.download_id):
                            known[each.download_id] = each
                            if json:
                                print_json_line(to_dict(each))
                            show(each)
                    for one in message.removed_ids:
                        known.pop(one, None)
                    if download_id and download_id not in known:
                        raise DownloadNotFound(f"there is no download {download_id}")
                    if not any(map(_is_active, known.values())):
                        break
    return _report(known, json)


def _is_active(download: Download) -> bool:
    from mlxmesh.model.v1.hub_pb2 import DOWNLOAD_STATE_RUNNING, DOWNLOAD_STATE_WAITING

    return download.state in (DOWNLOAD_STATE_RUNNING, DOWNLOAD_STATE_WAITING)


def _report(known: dict[str, Download], json: bool) -> bool:
    """Says what failed; whether something did."""
    failed = [each for each in known.values() if to_dict(each)["state"] == "failed"]
    for each in failed:
        if not json:
            say(f"{each.source.repo_id}: {each.failure.message}", "red", err=True)
    return bool(failed)


def _ask(
    call: Callable[[MeshClient], Awaitable[Download]],
    what: str,
    address: str | None,
    data_dir: Path | None,
    json: bool,
) -> None:
    changed = ask(call, address, data_dir)
    if json:
        print_json(to_dict(changed))
    else:
        typer.echo(f"{changed.download_id} ({changed.source.repo_id}) {what}")


Sort = Literal["trend", "downloads", "likes", "updated"]
Format = Literal["mlx", "gguf", "all"]


def search(
    text: Annotated[str, typer.Argument(help="Words of its name.")] = "",
    author: Annotated[str, typer.Option(help="Only of this author.")] = "",
    sort: Annotated[Sort, typer.Option(help="Order.")] = "trend",
    kind: Annotated[Format, typer.Option("--format", help="Which models are found.")] = "mlx",
    number: Annotated[int, typer.Option("-n", min=1, max=100, help="How many at most.")] = 20,
    address: Address = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Search the hub for models, and show whether each fits into the memory of this mesh."""

    async def work() -> SearchHubResponse:
        from mlxmesh.model.v1 import hub_pb2

        order = "UNSPECIFIED" if sort == "trend" else sort.upper()
        fields: dict[str, Any] = {
            "sort": hub_pb2.HubSort.Value(cast("Any", f"HUB_SORT_{order}")),
            "model_format": hub_pb2.HubFormat.Value(cast("Any", f"HUB_FORMAT_{kind.upper()}")),
        }
        async with connect(address, data_dir) as client:
            return await client.search_hub(text, author=author, page_size=number, **fields)

    found = [to_dict(each) for each in run(work()).models]
    if json:
        print_json({"models": found})
    elif not found:
        typer.echo("the hub has no such models; see `--format all`")
    else:
        from mlxmesh_cli.screen.hub_tables import search_table

        print_view(search_table(found))
