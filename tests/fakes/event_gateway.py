"""A gateway as far as publishers of events see one."""

from typing import Any

from mlxmesh.telemetry.v1.events_pb2 import Event, PublishEventsResponse
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.server import MeshServer

TELEMETRY = "mlxmesh.telemetry.v1.TelemetryService"


class FakeEventGateway:
    """Keeps events, each id once; fails when told to."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls = 0
        self._known: set[str] = set()
        self.failures: list[MeshError] = []
        """Raised by the next calls, one each, after their events were kept: lost answers."""

    async def PublishEvents(self, request: Any, context: Any) -> PublishEventsResponse:
        self.calls += 1
        for event in request.events:
            if event.event_id not in self._known:
                self._known.add(event.event_id)
                self.events.append(event)
        if self.failures:
            raise self.failures.pop(0)
        return PublishEventsResponse()

    WatchEvents = GetMeshStatus = GetTraffic = GetTrace = PublishEvents  # nobody calls them here


def event_server(servicer: Any) -> MeshServer:
    """A server of it; the caller starts and stops it."""
    services = [(add_TelemetryServiceServicer_to_server, servicer)]
    return MeshServer(services=services, service_names=[TELEMETRY], name="gateway")
