"""Calls the launcher of a data directory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from grpc import aio

from mlxmesh.control.v1.hosts_pb2_grpc import HostServiceStub
from mlxmesh.control.v1.launcher_pb2_grpc import LauncherServiceStub
from mlxmesh_launcher.record import LauncherRecord
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS, open_channel
from mlxmesh_shared.tls import CertificateFiles, CertificateSource


@asynccontextmanager
async def launcher_of(
    record: LauncherRecord, files: CertificateFiles | None
) -> AsyncGenerator[LauncherServiceStub]:
    """The launcher that the record, which has its `control` address, describes."""
    async with _channel(record, files) as channel:
        yield LauncherServiceStub(channel)


@asynccontextmanager
async def hosts_of(
    record: LauncherRecord, files: CertificateFiles | None
) -> AsyncGenerator[HostServiceStub]:
    """As launcher_of, for the hosts of its mesh."""
    async with _channel(record, files) as channel:
        yield HostServiceStub(channel)


def _channel(record: LauncherRecord, files: CertificateFiles | None) -> aio.Channel:
    certificates = CertificateSource(files) if files is not None else None
    # The launcher's server has the certificate of a runtime.
    return open_channel(
        record.control, role="runtime", certificates=certificates, timeouts=LONG_TIMEOUTS
    )
