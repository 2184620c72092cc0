"""Starts the jobs service of a mesh on this host."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlxmesh.control.v1.launcher_pb2 import StartServiceRequest
from mlxmesh_cli.mesh.supervisor import launcher_of
from mlxmesh_client import ServiceUnavailable
from mlxmesh_launcher.record import read_record

if TYPE_CHECKING:
    from mlxmesh_shared.tls import CertificateFiles

START_TIMEOUT_S = 90.0


async def start_jobs(data_dir: Path, gateway: str, tls: CertificateFiles | None) -> bool:
    """Has the launcher start the service and a worker; False if they ran already.

    Raises: MeshError; ServiceUnavailable where no launcher runs this gateway.
    """
    record = read_record(data_dir)
    if record is None or not record.control or record.gateway != gateway:
        raise ServiceUnavailable(
            f"no launcher of this host runs {gateway}; start `python -m mlxmesh_jobs` and `python"
            " -m mlxmesh_worker` beside its other services, or run this on the host of its launcher"
        )
    async with launcher_of(record, tls) as launcher:
        request = StartServiceRequest(name="jobs")
        return (await launcher.StartService(request, timeout=START_TIMEOUT_S)).started
