"""SystemService: check, call, reply."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mlxmesh.control.v1.process_pb2 import WatchOwnLogRequest
from mlxmesh.telemetry.v1 import system_pb2 as wire
from mlxmesh.telemetry.v1.system_pb2_grpc import SystemServiceServicer
from mlxmesh_gateway.mesh.system import MeshSystem

SERVICE_NAME = wire.DESCRIPTOR.services_by_name["SystemService"].full_name


class SystemServicer(SystemServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(self, system: MeshSystem) -> None:
        self._system = system

    async def GetSystem(
        self, request: wire.GetSystemRequest, context: Any
    ) -> wire.GetSystemResponse:
        return await self._system.now()

    async def ListSettings(
        self, request: wire.ListSettingsRequest, context: Any
    ) -> wire.ListSettingsResponse:
        settings = await self._system.settings(request.service, request.instance_id)
        return wire.ListSettingsResponse(settings=settings)

    async def DrainProcess(
        self, request: wire.DrainProcessRequest, context: Any
    ) -> wire.DrainProcessResponse:
        await self._system.drain(request.service, request.instance_id)
        return wire.DrainProcessResponse()

    async def WatchLog(
        self, request: wire.WatchLogRequest, context: Any
    ) -> AsyncGenerator[wire.WatchLogResponse]:
        asked = WatchOwnLogRequest(
            tail=request.tail, min_level=request.min_level, follow=request.follow
        )
        log = self._system.log(request.service, request.instance_id, asked)
        async with aclosing(log) as responses:
            async for one in responses:
                yield wire.WatchLogResponse(records=one.records, dropped=one.dropped)
