"""LoRA adapters as a table and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlxmesh_cli.screen.grid import Column, Grid

if TYPE_CHECKING:
    from mlxmesh.model.v1.adapter_pb2 import Adapter


def adapters_table(adapters: Sequence[Adapter]) -> Grid:
    """One row per adapter."""
    table = Grid(
        Column("model"),
        Column("adapter"),
        Column("format", drop=2),
        Column("rank", right=True),
        Column("size", right=True),
        Column("modules", drop=1),
    )
    for each in adapters:
        rank, modules = str(each.rank), " ".join(each.modules)
        table.add(each.model, each.name, each.format, rank, _size(each.weights_bytes), modules)
    return table


def adapter_lines(adapter: Adapter) -> Iterator[str]:
    """All that is known of one adapter."""
    yield f"{adapter.model}:{adapter.name}"
    shown = {
        "format": adapter.format,
        "rank": str(adapter.rank),
        "size": _size(adapter.weights_bytes),
        "modules": " ".join(adapter.modules),
        "digest": adapter.digest,
        "directory": adapter.directory,
        "added": adapter.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S UTC"),
    }
    for name, value in shown.items():
        yield f"  {name:10} {value}"


def _size(weights_bytes: int) -> str:
    return f"{weights_bytes / 1e6:,.1f} MB"
