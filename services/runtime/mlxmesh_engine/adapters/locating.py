"""Where the files of an adapter are on this host."""

from collections.abc import Callable
from pathlib import Path

from mlxmesh_engine.scheduling.request import AdapterSource

LocateAdapter = Callable[[AdapterSource], Path]
"""Finds the directory of an adapter's files on this host; may block."""


def directory_of(source: AdapterSource) -> Path:
    """The directory that the request names."""
    return Path(source.directory)
