"""Many simulated engines in one process: each has a port, a health service and `Execute`.

They are registered through the real adapter. A sequence is accepted and ends at once.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from grpc import StatusCode, aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mlxmesh.engine.v1 import engine_pb2 as pb
from mlxmesh.engine.v1.engine_pb2_grpc import (
    EngineServiceServicer,
    add_EngineServiceServicer_to_server,
)
from mlxmesh_shared.registry.consul import ConsulRegistry
from mlxmesh_shared.registry.port import Instance
from mlxmesh_shared.rpc.server import ServerOptions
from mlxmesh_shared.settings import ConsulSettings
from tests.scale.worker import answer_commands

REGISTER_AT_ONCE = 50
WIDE, NARROW_REPLICAS = "wide", 10
"""Every other engine serves the model `wide`; the others serve models of ten replicas each."""


def model_of(number: int) -> str:
    """The model that an engine serves."""
    return WIDE if number % 2 else f"narrow-{number // 2 // NARROW_REPLICAS}"


class SimulatedEngines(EngineServiceServicer):
    """Answers for all engines of this process: a stream does not say which one it is to."""

    async def Execute(
        self, request_iterator: AsyncIterator[pb.ExecuteRequest], context: Any
    ) -> AsyncIterator[pb.ExecuteResponse]:
        load = pb.EngineLoad(max_running=64, max_waiting=256)
        yield pb.ExecuteResponse(load=load)
        async for request in request_iterator:
            if request.HasField("submit"):
                ended = pb.SequenceOutput(
                    sequence_id=request.submit.sequence_id,
                    accepted=pb.Accepted(),
                    finish_reason=pb.ENGINE_FINISH_REASON_STOP,
                )
                yield pb.ExecuteResponse(outputs=[ended], load=load)

    async def GetEngineInfo(self, request: pb.GetEngineInfoRequest, context: Any) -> Any:
        await context.abort(StatusCode.UNIMPLEMENTED, "these engines only accept sequences")

    async def Encode(self, request: pb.EncodeRequest, context: Any) -> Any:
        await context.abort(StatusCode.UNIMPLEMENTED, "these engines only accept sequences")


async def serving_ports(count: int) -> tuple[aio.Server, list[int]]:
    """A server that answers for engines on so many ports."""
    server = aio.server(options=ServerOptions().channel_arguments())
    add_EngineServiceServicer_to_server(SimulatedEngines(), server)
    healthy = health.aio.HealthServicer()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(count)]
    await server.start()
    return server, ports


async def serve(consul: str, first: int, count: int, check_interval_s: float) -> None:
    """Registers engines `first` to `first + count - 1` and answers commands."""
    server, ports = await serving_ports(count)
    registry = ConsulRegistry(ConsulSettings(address=consul, check_interval_s=check_interval_s))
    changes = 0

    def engine(number: int, **facts: str) -> Instance:
        """With as much metadata as a real one has."""
        return Instance(
            service="engine",
            instance_id=f"engine-{number:05d}-0123abcd",
            address=f"127.0.0.1:{ports[number - first]}",
            pid=1,
            metadata={
                "contract": "v1",
                "host": f"host-{number // 8}",
                "model": model_of(number),
                "version": "1",
                "digest": "ab" * 32,
                **facts,
            },
        )

    async def change() -> None:
        """One engine says something new about itself."""
        nonlocal changes
        changes += 1
        await registry.register(engine(first + changes % count, state=f"ready-{changes}"))

    async def register() -> None:
        for start in range(first, first + count, REGISTER_AT_ONCE):
            numbers = range(start, min(start + REGISTER_AT_ONCE, first + count))
            await asyncio.gather(*(registry.register(engine(number)) for number in numbers))

    await answer_commands({"register": register, "change": change})
    await registry.close()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve(**json.loads(sys.argv[1])))
