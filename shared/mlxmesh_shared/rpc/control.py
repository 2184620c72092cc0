"""ControlService, which every server has: it requests the drain of the process."""

from __future__ import annotations

import asyncio

from mlxmesh.control.v1 import control_pb2 as pb
from mlxmesh.control.v1 import control_pb2_grpc as pb_grpc

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ControlService"].full_name


class ControlServicer(pb_grpc.ControlServiceServicer):
    """Sets `leaving`, which stops the process as a signal does."""

    def __init__(self, leaving: asyncio.Event) -> None:
        self._leaving = leaving

    async def Drain(self, request: pb.DrainRequest, context: object) -> pb.DrainResponse:
        self._leaving.set()
        return pb.DrainResponse()
