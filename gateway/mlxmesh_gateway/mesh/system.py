"""The hosts and processes of the mesh, as they tell of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from grpc import aio

from mlxmesh.control.v1 import control_pb2, process_pb2
from mlxmesh.control.v1.control_pb2_grpc import ControlServiceStub
from mlxmesh.control.v1.process_pb2_grpc import ProcessServiceStub
from mlxmesh.runtime.v1.runtime_pb2 import GetRuntimeInfoRequest, GetRuntimeInfoResponse
from mlxmesh.runtime.v1.runtime_pb2_grpc import RuntimeServiceStub
from mlxmesh.telemetry.v1 import system_pb2 as wire
from mlxmesh_gateway.mesh.convert import hosts_of, process_of
from mlxmesh_gateway.mesh.processes import ProcessChannels
from mlxmesh_shared.errors import InstanceNotFound, MeshError, ServiceUnavailable
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.rpc.channels import cancel_requests
from mlxmesh_shared.tls.identity import SERVER_ROLES

SERVICES = SERVER_ROLES
TIMEOUT_S = 1.0

Runtimes = Sequence[tuple[Instance, GetRuntimeInfoResponse]]


class MeshSystem:
    """Asks every process concurrently; one that is silent for a second is listed with a failure."""

    def __init__(self, processes: ProcessChannels) -> None:
        """Takes ownership of the connections."""
        self._processes = processes

    async def now(self) -> wire.GetSystemResponse:
        """The hosts and processes, within about a second."""
        instances = await self._instances()
        runtimes = [one for one in instances if one.service == "runtime"]
        asked, infos = await asyncio.gather(
            asyncio.gather(*map(self._process, instances)),
            asyncio.gather(*map(self._runtime, runtimes)),
        )
        told = [
            (instance, info)
            for instance, info in zip(runtimes, infos, strict=True)
            if info is not None
        ]
        return wire.GetSystemResponse(hosts=hosts_of(asked, told), processes=asked)

    async def settings(self, service: str, instance_id: str) -> Sequence[process_pb2.Setting]:
        """The settings of one process. Raises: InstanceNotFound, and other MeshErrors."""
        stub = ProcessServiceStub(await self._channel(service, instance_id))
        request = process_pb2.ListOwnSettingsRequest()
        response = await stub.ListOwnSettings(request, timeout=TIMEOUT_S)
        return response.settings

    async def drain(self, service: str, instance_id: str) -> None:
        """Asks one process to shut down. Raises: as of settings."""
        stub = ControlServiceStub(await self._channel(service, instance_id))
        await stub.Drain(control_pb2.DrainRequest(), timeout=TIMEOUT_S)

    async def log(
        self, service: str, instance_id: str, request: process_pb2.WatchOwnLogRequest
    ) -> AsyncGenerator[process_pb2.WatchOwnLogResponse]:
        """The log records of one process. Raises: as of settings."""
        stub = ProcessServiceStub(await self._channel(service, instance_id))
        call = stub.WatchOwnLog(request)
        try:
            async for response in call:
                yield response
        finally:
            call.cancel()

    async def close(self) -> None:
        """Closes its connections."""
        await self._processes.close()

    async def _instances(self) -> list[Instance]:
        found = await self._processes.resolve_all(SERVICES)
        await self._processes.keep_only(found)
        return sorted(found, key=lambda one: (SERVICES.index(one.service), one.instance_id))

    async def _channel(self, service: str, instance_id: str) -> aio.Channel:
        for instance in await self._processes.resolve(service) if service in SERVICES else ():
            if instance.instance_id == instance_id:
                return self._processes.channel(instance)
        raise InstanceNotFound(
            f"there is no {service} process {instance_id}; `mlxmesh status` lists them all"
        )

    async def _process(self, instance: Instance) -> wire.Process:
        stub = ProcessServiceStub(self._processes.channel(instance))
        try:
            details = await stub.GetProcess(process_pb2.GetProcessRequest(), timeout=TIMEOUT_S)
        except MeshError as error:
            return process_of(instance, error)
        except asyncio.CancelledError:
            if cancel_requests():
                raise
            return process_of(instance, ServiceUnavailable("it has left"))
        return process_of(instance, details)

    async def _runtime(self, instance: Instance) -> GetRuntimeInfoResponse | None:
        stub = RuntimeServiceStub(self._processes.channel(instance))
        try:
            return await stub.GetRuntimeInfo(GetRuntimeInfoRequest(), timeout=TIMEOUT_S)
        except MeshError:
            return None
        except asyncio.CancelledError:
            if cancel_requests():
                raise
            return None
