"""Tables of models of a hub and of downloads, and progress bars; rows are JSON data."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mlxmesh_cli.screen.grid import Column, Grid

if TYPE_CHECKING:
    from mlxmesh.model.v1.hub_pb2 import Download

_FITS: dict[str, str] = {
    "now": "yes",
    "after_unloading": "after unloading",
    "never": "no",
    "refused": "refused",
    "unspecified": "?",
}


def search_table(models: Sequence[dict[str, Any]]) -> Grid:
    """One row per model."""
    table = Grid(
        Column("model", min_cells=20),
        Column("size", right=True),
        Column("bits", drop=3),
        Column("architecture", drop=4),
        Column("licence", drop=2),
        Column("downloads", right=True, drop=1),
        Column("fits"),
        Column("installed", drop=5, rare=True),
    )
    for each in models:
        installed = each["installed_name"]
        table.add(
            each["repo_id"],
            _size(each["size_bytes"]) or "?",
            each["quantization"],
            each["architecture"],
            ("gated, " if each["gated"] else "") + each["licence"],
            f"{int(each['downloads']):,}",
            _FITS[each["fit"]],
            f"{installed}@{each['installed_version']}" if installed else "",
        )
    return table


def downloads_table(downloads: Sequence[dict[str, Any]]) -> Grid:
    """One row per download."""
    table = Grid(
        Column("download"),
        Column("source", min_cells=20),
        Column("name", drop=3),
        Column("state"),
        Column("done", right=True),
        Column("of", right=True, drop=2),
        Column("speed", right=True, drop=4, rare=True),
        Column("why", drop=1, min_cells=20, rare=True),
    )
    for each in downloads:
        source, speed = each["source"], each["bytes_per_second"]
        table.add(
            each["download_id"],
            "/".join(filter(None, (source["repo_id"], source["file"]))),
            source["name"],
            each["state"],
            _size(each["done_bytes"]) or "0",
            _size(each["total_bytes"]),
            f"{decimal(int(speed))}/s" if speed else "",
            each["failure"]["message"] if "failure" in each else "",
        )
    return table


def _size(number_of_bytes: str) -> str:
    """A size; empty for 0. 64-bit numbers are texts in JSON."""
    return decimal(int(number_of_bytes)) if int(number_of_bytes) else ""


@contextmanager
def download_bars(*, quiet: bool) -> Generator[Callable[[Download], None]]:
    """A bar for each download that is shown, on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(
        *columns,
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=quiet,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(download: Download) -> None:
            one = download.download_id
            if one not in tasks:
                tasks[one] = bars.add_task(download.source.repo_id, total=None)
            bars.update(
                tasks[one], completed=download.done_bytes, total=download.total_bytes or None
            )

        yield show
