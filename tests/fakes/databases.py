"""Databases that have their tables already, since making them takes longer than most tests.

Tests of the migrations begin with an empty database instead.
"""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from mlxmesh_shared.sql.database import open_database
from mlxmesh_shared.sql.schema import Schema
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile


def sqlite_with_tables(path: Path, schema: Schema) -> SqliteFile:
    """A new file, in directories that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_content(schema))
    return SqliteFile(path)


@cache
def _content(schema: Schema) -> bytes:
    with tempfile.TemporaryDirectory(prefix="mlxmesh-tables-") as folder:
        url = SqliteFile(Path(folder) / "tables.db")
        make_tables(url, schema)
        return url.path.read_bytes()


def make_tables(url: DatabaseUrl, schema: Schema) -> None:
    """Upgrades an empty database, on a thread because callers may have an event loop."""

    async def upgrade() -> None:
        await (await open_database(url, schema)).close()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, upgrade()).result()
