"""Starts the access service of a mesh on this host when a command needs it first."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mlxmesh.control.v1.launcher_pb2 import StartServiceRequest
from mlxmesh_cli.mesh.supervisor import launcher_of
from mlxmesh_client import AccessUnavailable, MeshClient, ServiceUnavailable
from mlxmesh_launcher.record import read_record

if TYPE_CHECKING:
    from mlxmesh.access.v1.access_pb2 import GetSignInOptionsResponse
    from mlxmesh_shared.tls import CertificateFiles

START_TIMEOUT_S = 90.0
# How long a gateway may take to notice a service that has just registered.
NOTICE_TIMEOUT_S = 15.0
POLL_S = 0.1


async def sign_in_options(client: MeshClient) -> GetSignInOptionsResponse | None:
    """What the access service says of itself; None while there is none behind the gateway."""
    try:
        return await client.access.sign_in_options()
    except ServiceUnavailable:
        return None


async def start_access(
    client: MeshClient, data_dir: Path, gateway: str, tls: CertificateFiles | None
) -> GetSignInOptionsResponse:
    """Has the launcher start the service; returns once the gateway reaches it.

    Raises: MeshError; AccessUnavailable where no launcher runs this gateway.
    """
    record = read_record(data_dir)
    if record is None or not record.control or record.gateway != gateway:
        raise AccessUnavailable(
            f"no access service is behind {gateway}; start one beside its other services with"
            " `python -m mlxmesh_access`, or run this command on the host of its launcher"
        )
    async with launcher_of(record, tls) as launcher:
        await launcher.StartService(StartServiceRequest(name="access"), timeout=START_TIMEOUT_S)
    until_s = time.monotonic() + NOTICE_TIMEOUT_S
    while (options := await sign_in_options(client)) is None:
        if time.monotonic() > until_s:
            raise AccessUnavailable(
                f"the access service runs, but {gateway} has not reached it for"
                f" {NOTICE_TIMEOUT_S:.0f} s; see `mlxmesh status`, then try again"
            )
        await asyncio.sleep(POLL_S)
    return options
