"""How far the start of a rank on another host is."""

from __future__ import annotations

from dataclasses import dataclass

from mlxmesh_runtime.files.file_fetch import Progress


@dataclass(frozen=True)
class RankState:
    """Its process id, 0 until it runs; until then, how far the fetch of its files is."""

    pid: int = 0
    fetch: Progress | None = None
