"""Calls of the access service, as the commands about users, keys, quotas and usage make them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlxmesh_cli.commands.session import connect, run

if TYPE_CHECKING:
    from mlxmesh_client.access import AccessClient

T = TypeVar("T")


def call_access(
    work: Callable[[AccessClient], Awaitable[T]], address: str | None, data_dir: Path | None
) -> T:
    """Runs the calls of a command; a MeshError becomes one line and exit code 1."""

    async def connected() -> T:
        async with connect(address, data_dir) as client:
            return await work(client.access)

    return run(connected())
