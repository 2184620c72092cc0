"""What a launcher tells of its services that the registry cannot: those that are down."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxmesh_launcher.record import read_record
from mlxmesh_shared.channels import open_channel
from mlxmesh_shared.errors import MeshError

if TYPE_CHECKING:
    from mlxmesh.control.v1.launcher_pb2 import SupervisedService
    from mlxmesh_shared.tls import CertificateSource

TIMEOUT_S = 3.0


async def services_down(
    data_dir: Path, registered_pids: Collection[int], certificates: CertificateSource | None
) -> list[dict[str, Any]]:
    """A row, as of `overview`, for each service of the launcher that is not registered."""
    from mlxmesh.control.v1 import launcher_pb2 as pb
    from mlxmesh.control.v1.launcher_pb2_grpc import LauncherServiceStub

    record = read_record(data_dir)
    if record is None or not record.control:
        return []
    try:
        # The launcher has a runtime's certificate.
        async with open_channel(
            record.control, role="runtime", certificates=certificates
        ) as channel:
            answer = await LauncherServiceStub(channel).ListServices(
                pb.ListServicesRequest(), timeout=TIMEOUT_S
            )
    except MeshError:
        return []
    return [row_of(one) for one in answer.services if one.pid not in registered_pids]


def row_of(service: SupervisedService) -> dict[str, Any]:
    """The row of a service that runs nowhere, or does not serve yet."""
    return {
        "service": service.name,
        "instance_id": service.name,
        "address": "",
        "pid": service.pid,
        "state": "starting" if service.pid else "restarting",
        "restart_in_ms": service.restart_in_ms,
        "failures": service.failures,
        "last_exit": service.last_exit,
    }
