"""Calls of the access service, as the commands about users, keys, quotas and usage make them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mlxmesh_cli.commands.session import connect, run

if TYPE_CHECKING:
    from mlxmesh.access.v1.access_pb2 import Quota
    from mlxmesh_client.access import AccessClient
    from mlxmesh_client.access_requests import Subject

T = TypeVar("T")


def call_access(
    work: Callable[[AccessClient], Awaitable[T]], address: str | None, data_dir: Path | None
) -> T:
    """Runs the calls of a command; a MeshError becomes one line and exit code 1."""

    async def connected() -> T:
        async with connect(address, data_dir) as client:
            return await work(client.access)

    return run(connected())


async def quotas_of(access: AccessClient, subject: Subject | None) -> list[Quota]:
    """The quota of a subject, or without one all that the caller may see; empty for none."""
    from mlxmesh_client import QuotaNotFound

    try:
        return await access.list_quotas(subject)
    except QuotaNotFound:
        return []


async def is_member(access: AccessClient) -> bool:
    """Whether the caller is a user without the role admin."""
    from mlxmesh.access.v1.access_pb2 import ACCESS_ROLE_MEMBER
    from mlxmesh_client import UserNotFound

    try:
        return (await access.get_user()).role == ACCESS_ROLE_MEMBER
    except UserNotFound:
        return False
