"""Builds LiveService and SystemService."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlxmesh.telemetry.v1 import live_pb2, system_pb2
from mlxmesh.telemetry.v1.live_pb2_grpc import add_LiveServiceServicer_to_server
from mlxmesh.telemetry.v1.system_pb2_grpc import add_SystemServiceServicer_to_server
from mlxmesh_gateway.door.door import Door
from mlxmesh_gateway.door.entrance import Authorizer
from mlxmesh_gateway.events.event_log import GatewayEventLog
from mlxmesh_gateway.forwarding.request_log import RequestLog
from mlxmesh_gateway.forwarding.routes import public_routes
from mlxmesh_gateway.grpc.entrance import current_principal
from mlxmesh_gateway.live.live_servicer import LiveServicer
from mlxmesh_gateway.live.requests import MeshRequests, RequestFeed
from mlxmesh_gateway.live.shared_poll import SharedPoll
from mlxmesh_gateway.live.sources import (
    RELAYED,
    Events,
    Relayed,
    Requests,
    Source,
    mesh_source,
    system_source,
)
from mlxmesh_gateway.mesh.processes import ProcessChannels
from mlxmesh_gateway.mesh.status import MeshStatus
from mlxmesh_gateway.mesh.system import MeshSystem
from mlxmesh_gateway.mesh.system_servicer import SystemServicer
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.registry import Registry
from mlxmesh_shared.rpc.channels import LONG_TIMEOUTS
from mlxmesh_shared.rpc.server import AddServicer
from mlxmesh_shared.settings import GatewaySettings

LIVE = live_pb2.DESCRIPTOR.services_by_name["LiveService"]
SYSTEM = system_pb2.DESCRIPTOR.services_by_name["SystemService"]
SERVICES = (LIVE, SYSTEM)


@dataclass(frozen=True, kw_only=True)
class Live:
    """The two services, and what they hold."""

    live: LiveServicer
    system: SystemServicer
    _processes: ProcessChannels

    def services(self) -> list[tuple[AddServicer, Any]]:
        """For a gRPC server."""
        return [
            (add_LiveServiceServicer_to_server, self.live),
            (add_SystemServiceServicer_to_server, self.system),
        ]

    async def close(self) -> None:
        """Closes the connections to other processes."""
        await self._processes.close()


def make_live(
    process: ServiceProcess[GatewaySettings],
    registry: Registry,
    *,
    status: MeshStatus,
    events: GatewayEventLog,
    log: RequestLog,
    door: Door,
    authorizer: Authorizer,
) -> Live:
    """Nothing of it runs before somebody watches."""
    processes = ProcessChannels(registry, partial(process.open_channel, timeouts=LONG_TIMEOUTS))
    system = MeshSystem(processes)
    requests = MeshRequests(log, processes, gateway_id=process.instance_id)
    sources: dict[int, Source] = {
        live_pb2.TOPIC_MESH: mesh_source(SharedPoll(status.now)),
        live_pb2.TOPIC_SYSTEM: system_source(SharedPoll(system.now)),
        live_pb2.TOPIC_EVENTS: Events(events),
        live_pb2.TOPIC_REQUESTS: Requests(
            requests, SharedPoll(RequestFeed(requests).read, repeats=False)
        ),
        **_relayed(door),
    }
    return Live(
        live=LiveServicer(sources, requests, authorizer, current_principal=current_principal),
        system=SystemServicer(system),
        _processes=processes,
    )


def _relayed(door: Door) -> Mapping[int, Source]:
    routes = {route.path: route for route in public_routes()}
    return {
        topic: Relayed(topic, door, routes.get(path), start)
        for topic, (path, start) in RELAYED.items()
    }
