"""The simulation by gRPC. Its messages are google.protobuf.Struct, so it has no contract."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BytesValue
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tests.fakes.simulation_server import PNG, Simulation, Work

SERVICE = "mlxmesh.simulation.v1.SimulationService"
_PIECE_BYTES = 64 * 1024
_STATUSES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


class GrpcSimulation:
    """Serves a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.address = ""
        self.fail = 0
        """The HTTP status that the next Simulate fails with, as gRPC has it."""
        self.health = health.HealthServicer()
        self.breaks_after = 0
        """After so many answers, the next stream breaks."""

    def sicken(self) -> None:
        self.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING)

    async def simulate(self, order: Struct, context: aio.ServicerContext) -> AsyncIterator[Struct]:
        if self.fail:
            status, self.fail = _STATUSES[self.fail], 0
            await context.abort(status, "it does not want to")
        fields = json_format.MessageToDict(order)
        work = self.simulation.begin(fields)
        if isinstance(work, dict):
            yield _struct(work)
            return
        async for status in self._told(work, int(fields["attempt"])):
            yield _struct(status)
            if self.breaks_after:
                self.breaks_after -= 1
                if not self.breaks_after:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "it breaks")

    async def _told(self, work: Work, attempt: int) -> AsyncIterator[dict[str, Any]]:
        while True:
            changed = work.changed
            if attempt < work.attempt:
                yield {"state": "fenced", "attempt": work.attempt}
                return
            yield work.status()
            if work.state != "running":
                return
            await changed.wait()

    async def cancel(self, named: Struct, context: aio.ServicerContext) -> Struct:
        fields = json_format.MessageToDict(named)
        return _struct(self.simulation.cancel(fields["job_id"], int(fields["attempt"])))

    async def download(
        self, named: Struct, context: aio.ServicerContext
    ) -> AsyncIterator[BytesValue]:
        left = self.simulation.sizes[json_format.MessageToDict(named)["path"]]
        content = PNG
        while left > 0:
            yield BytesValue(value=content[:left])
            left -= len(content[:left])
            content = bytes(_PIECE_BYTES)


def _struct(fields: dict[str, Any]) -> Struct:
    return json_format.ParseDict(fields, Struct())


@asynccontextmanager
async def grpc_simulation() -> AsyncIterator[GrpcSimulation]:
    served = GrpcSimulation(Simulation())
    kinds: dict[str, tuple[Any, Any, type[Any]]] = {
        "Simulate": (grpc.unary_stream_rpc_method_handler, served.simulate, Struct),
        "Cancel": (grpc.unary_unary_rpc_method_handler, served.cancel, Struct),
        "Download": (grpc.unary_stream_rpc_method_handler, served.download, BytesValue),
    }
    handlers = {
        name: make(
            behaviour,
            request_deserializer=Struct.FromString,
            response_serializer=kind.SerializeToString,
        )
        for name, (make, behaviour, kind) in kinds.items()
    }
    server = aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    served.health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(served.health, server)
    served.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield served
    finally:
        served.simulation.close()
        await server.stop(None)
