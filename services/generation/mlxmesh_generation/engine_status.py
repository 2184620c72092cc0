"""TelemetryService as generation serves it to gateways: the engines, and what it thinks of them."""

from typing import Any

from mlxmesh.telemetry.v1.telemetry_pb2 import GetMeshStatusRequest, GetMeshStatusResponse, Instance
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import TelemetryServiceServicer
from mlxmesh_generation.engines import Engines
from mlxmesh_shared.errors import MethodNotFound
from mlxmesh_shared.mesh_status import breaker_message, instance_message


class EngineStatusServicer(TelemetryServiceServicer):
    """Tells of the engines alone, without asking them anything; all else is the gateways'."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def GetMeshStatus(
        self, request: GetMeshStatusRequest, context: Any
    ) -> GetMeshStatusResponse:
        return GetMeshStatusResponse(instances=self._instances())

    def GetTrace(self, request: Any, context: Any) -> Any:
        raise _at_the_gateway()

    def WatchEvents(self, request: Any, context: Any) -> Any:
        raise _at_the_gateway()

    def PublishEvents(self, request: Any, context: Any) -> Any:
        raise _at_the_gateway()

    def GetTraffic(self, request: Any, context: Any) -> Any:
        raise _at_the_gateway()

    def _instances(self) -> list[Instance]:
        instances: list[Instance] = []
        for engine, breaker in self._engines.breakers():
            message = instance_message(engine)
            message.breaker.CopyFrom(breaker_message(breaker))
            instances.append(message)
        return instances


def _at_the_gateway() -> MethodNotFound:
    return MethodNotFound("generation does not serve this; ask a gateway")
