"""LauncherService: lists the supervised services, starts and restarts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from mlxmesh.control.v1 import hosts_pb2, hosts_pb2_grpc
from mlxmesh.control.v1 import launcher_pb2 as pb
from mlxmesh.control.v1 import launcher_pb2_grpc as pb_grpc
from mlxmesh_launcher.hosts.servicer import HostControl, HostServicer
from mlxmesh_shared.errors import IllegalState
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.tls import ServerTls


class Supervised(Protocol):
    """The processes that the launcher runs."""

    def names(self, services: Sequence[str]) -> list[str]:
        """The processes of these kinds, of all kinds when none is named, in starting order."""
        ...

    def services(self) -> Sequence[pb.SupervisedService]:
        """All of them as they are now, in starting order."""
        ...

    async def start_service(self, name: str) -> tuple[pb.SupervisedService, bool]:
        """Starts a service that runs only where it is used, if it does not run yet; returns it once
        it serves, and whether this call started it. Raises: MeshError.
        """
        ...

    def replace(self, name: str) -> AsyncGenerator[pb.RestartPhase.ValueType]:
        """Replaces one process; yields each phase as it begins. Raises: MeshError."""
        ...


class LauncherServicer(pb_grpc.LauncherServiceServicer):
    """One restart at a time; requests have passed the contract's rules."""

    def __init__(self, processes: Supervised) -> None:
        self._processes = processes
        self._restarting = False

    async def Restart(
        self, request: pb.RestartRequest, context: object
    ) -> AsyncGenerator[pb.RestartResponse]:
        if self._restarting:
            raise IllegalState("a restart is running already; wait until it is done")
        self._restarting = True
        try:
            for name in self._processes.names(request.services):
                async for phase in self._processes.replace(name):
                    yield pb.RestartResponse(name=name, phase=phase)
        finally:
            self._restarting = False

    async def StartService(
        self, request: pb.StartServiceRequest, context: object
    ) -> pb.StartServiceResponse:
        service, started = await self._processes.start_service(request.name)
        return pb.StartServiceResponse(service=service, started=started)

    async def ListServices(
        self, request: pb.ListServicesRequest, context: object
    ) -> pb.ListServicesResponse:
        return pb.ListServicesResponse(services=self._processes.services())


def control_server(
    processes: Supervised,
    *,
    leaving: asyncio.Event,
    tls: ServerTls | None = None,
    hosts: HostControl | None = None,
) -> MeshServer:
    """The launcher's own server, reachable from this host only; Drain sets `leaving`.

    `hosts` is there on the first host of a mesh of several.
    """
    return MeshServer(
        services=[
            (pb_grpc.add_LauncherServiceServicer_to_server, LauncherServicer(processes)),
            (hosts_pb2_grpc.add_HostServiceServicer_to_server, HostServicer(hosts)),
        ],
        service_names=[
            pb.DESCRIPTOR.services_by_name["LauncherService"].full_name,
            hosts_pb2.DESCRIPTOR.services_by_name["HostService"].full_name,
        ],
        # The live view of `mlxmesh up` asks each second.
        options=ServerOptions(log_successes=False),
        name="launcher",
        tls=tls,
        leaving=leaving,
    )
