"""Calls the launcher of a data directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mlxmesh.control.v1.launcher_pb2_grpc import LauncherServiceStub
from mlxmesh_launcher.record import LauncherRecord
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource


@asynccontextmanager
async def launcher_of(
    record: LauncherRecord, files: CertificateFiles | None
) -> AsyncGenerator[LauncherServiceStub]:
    """The launcher that the record, which has its `control` address, describes."""
    certificates = CertificateSource(files) if files is not None else None
    # The launcher's server has the certificate of a runtime.
    async with open_channel(
        record.control, role="runtime", certificates=certificates, timeouts=LONG_TIMEOUTS
    ) as channel:
        yield LauncherServiceStub(channel)
