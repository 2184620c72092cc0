"""Builds the gateway from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from mlxmesh.inference.v2.inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mlxmesh.job.v1.worker_pb2_grpc import add_TranslationServiceServicer_to_server
from mlxmesh.telemetry.v1 import telemetry_pb2
from mlxmesh.telemetry.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from mlxmesh_gateway.access.assembly import Access
from mlxmesh_gateway.door.door import Door
from mlxmesh_gateway.door.entrance import Entrance
from mlxmesh_gateway.door.limits import Deadlines, places_per_caller
from mlxmesh_gateway.events.gateway_events import GatewayEvents
from mlxmesh_gateway.events.overload import OverloadEvents
from mlxmesh_gateway.forwarding.backends import Backends
from mlxmesh_gateway.forwarding.forwarder import Forwarder
from mlxmesh_gateway.forwarding.request_log import RequestLog
from mlxmesh_gateway.forwarding.routes import BACKENDS, PUBLIC_SERVICES, public_routes
from mlxmesh_gateway.forwarding.starting import StartOnUse
from mlxmesh_gateway.forwarding.telemetry import observe_gateway
from mlxmesh_gateway.forwarding.traffic import GatewayTraffic
from mlxmesh_gateway.grpc.entrance import GrpcEntrance, current_principal
from mlxmesh_gateway.grpc.own_services import OwnServices
from mlxmesh_gateway.grpc.relay import Relay
from mlxmesh_gateway.http.door import HttpDoor
from mlxmesh_gateway.kserve.methods import CARRIERS
from mlxmesh_gateway.kserve.methods import SERVICE as INFERENCE
from mlxmesh_gateway.kserve.servicer import InferenceServicer
from mlxmesh_gateway.kserve.streams import max_streams
from mlxmesh_gateway.live.assembly import LIVE, SYSTEM, Live, make_live
from mlxmesh_gateway.live.assembly import SERVICES as LIVE_SERVICES
from mlxmesh_gateway.mesh.status import SERVICES, MeshStatus
from mlxmesh_gateway.mesh.telemetry_servicer import TelemetryServicer
from mlxmesh_gateway.openai.translation.servicer import SERVICE as TRANSLATION
from mlxmesh_gateway.openai.translation.servicer import TranslationServicer
from mlxmesh_gateway.otlp.assembly import Receiver
from mlxmesh_gateway.otlp.fan_out import FanOut
from mlxmesh_gateway.otlp.messages import SERVICES as OTLP_SERVICES
from mlxmesh_gateway.otlp.services import otlp_handlers
from mlxmesh_gateway.otlp.traces import Traces
from mlxmesh_shared.events import publish_changes
from mlxmesh_shared.process import process_servicer
from mlxmesh_shared.process.service_host import ServiceHost
from mlxmesh_shared.process.service_process import ServiceProcess
from mlxmesh_shared.resilience.admission import CallAdmission
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter
from mlxmesh_shared.rpc import control
from mlxmesh_shared.rpc.carried_call import Behaviour
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.settings import GatewaySettings
from mlxmesh_shared.tls import ServerTls

TELEMETRY_SERVICE = telemetry_pb2.DESCRIPTOR.services_by_name["TelemetryService"]
TELEMETRY = TELEMETRY_SERVICE.full_name
ALWAYS_SERVING = (TELEMETRY, TRANSLATION, *(one.full_name for one in LIVE_SERVICES))
"""Services that need no other process."""
GENERATES = ("generation", "model")
"""The backends that a generation needs."""


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """The parts that have a beginning or an end."""

    events: GatewayEvents
    backends: Backends
    status: MeshStatus
    server: MeshServer
    access: Access
    http: HttpDoor
    live: Live

    async def close(self) -> None:
        """Closes the connections to other instances."""
        await self.live.close()
        await self.status.close()
        await self.backends.close()


def make_gateway(
    host: ServiceHost[GatewaySettings], receiver: Receiver, *, settle_s: float
) -> Gateway:
    """A gateway that is not started; its limits follow the settings."""

    async def show_backend(backend: str, known: bool) -> None:
        access.on_backend(backend, known)
        await server.set_health(BACKENDS[backend].full_name, serving=known)
        await server.set_health(INFERENCE, serving=is_ready())

    def is_ready() -> bool:
        return all(map(backends.has, GENERATES))

    def guarded(method: str, handler: Any) -> Behaviour:
        return server.guarded(method, handler)

    process, registry = host.process, host.registry
    traffic = GatewayTraffic()
    events = GatewayEvents(
        registry, SERVICES, instance_id=process.instance_id, certificates=process.certificates
    )
    publish_changes(process.live, events.publish)
    backends = Backends(
        registry,
        tuple(BACKENDS),
        on_change=show_backend,
        open_=process.open_channel,
        publish=events.publish,
    )
    settings = process.settings
    forwarder = Forwarder(backends, resume_wait_s=settings.resume_wait_s, traffic=traffic)
    access = Access(settings, backends, instance_id=process.instance_id)
    starts = StartOnUse(registry, backends, open_=process.open_channel)
    requests = RequestLog(settings.recent_requests)
    door = _door(settings, forwarder, access, starts, requests)
    relay = Relay(public_routes(), door)
    inference = InferenceServicer(
        Relay(public_routes(), door, protocol="kserve"),
        guarded,
        current_caller=lambda: current_principal().share,
        max_streams=max_streams(
            max_message_bytes=settings.max_message_bytes, max_held_bytes=settings.max_held_bytes
        ),
        ready=is_ready,
        refuse_unknown=settings.unknown_fields == "refuse",
    )
    observe_gateway(process.telemetry.of_process.metrics, forwarder.counts, backends)
    status = _status(host, receiver, backends, traffic)
    servicer = TelemetryServicer(
        status=status,
        events=events.log,
        traffic=traffic,
        traces=Traces(
            receiver.recent, registry, process.open_channel, instance_id=process.instance_id
        ),
    )
    overload = OverloadEvents(events.publish, instance_id=process.instance_id)
    entrance = _entrance(settings, access, overload)
    live = make_live(
        process,
        registry,
        status=status,
        events=events.log,
        log=requests,
        door=door,
        authorizer=access.authorizer(services_of_port()),
    )
    server = _server(
        process, relay, inference, servicer, live, receiver.fan_out, entrance, settle_s
    )
    process.live.subscribe(lambda now: _limit(now, door, entrance))
    own = OwnServices(
        [(TELEMETRY_SERVICE, servicer), (LIVE, live.live), (SYSTEM, live.system)],
        door,
        deadlines=lambda: door.deadlines,
    )
    return Gateway(
        events=events,
        backends=backends,
        status=status,
        server=server,
        access=access,
        live=live,
        http=HttpDoor(
            entrance,
            own,
            routes=(*public_routes(), *own.routes),
            max_body_bytes=settings.max_message_bytes,
            max_held_bytes=settings.max_held_bytes,
            ready=is_ready,
        ),
    )


def _limit(settings: GatewaySettings, door: Door, entrance: Entrance) -> None:
    """Applies the settings that may change."""
    door.deadlines = _deadlines(settings)
    entrance.resize(settings.max_concurrent_rpcs, per_caller=_places_per_caller(settings))


def _deadlines(settings: GatewaySettings) -> Deadlines:
    return Deadlines(settings.default_deadline_s, settings.max_deadline_s)


def _places_per_caller(settings: GatewaySettings) -> int:
    return places_per_caller(settings.max_concurrent_rpcs, settings.max_rpcs_per_caller)


def _door(
    settings: GatewaySettings,
    forwarder: Forwarder,
    access: Access,
    starts: StartOnUse,
    requests: RequestLog,
) -> Door:
    return Door(
        parser=RequestParser(Validator.for_services(*PUBLIC_SERVICES)),
        forwarder=forwarder,
        deadlines=_deadlines(settings),
        meter=access.meter,
        before=starts.ensure,
        requests=requests,
    )


def _entrance(settings: GatewaySettings, access: Access, overload: OverloadEvents) -> Entrance:
    limiter = ConcurrencyLimiter(
        settings.max_concurrent_rpcs, per_caller=_places_per_caller(settings)
    )
    return Entrance(
        authenticator=access.authenticator,
        access=access.authorizer(services_of_port()),
        quotas=access.quotas,
        admission=CallAdmission(limiter, on_refused=overload.refused),
    )


def services_of_port() -> list[ServiceDescriptor]:
    """Every service of the gateway's port but health and reflection, which are open."""
    names = (*_service_names(), control.SERVICE_NAME, process_servicer.SERVICE_NAME)
    return [descriptor_pool.Default().FindServiceByName(name) for name in names]


def _service_names() -> list[str]:
    """Every service of the gateway's port."""
    names = [service.full_name for service in PUBLIC_SERVICES]
    names += [service.name for service in OTLP_SERVICES.values()]
    names += [service.full_name for service in LIVE_SERVICES]
    return [*names, TELEMETRY, INFERENCE, TRANSLATION]


def _status(
    host: ServiceHost[GatewaySettings],
    receiver: Receiver,
    backends: Backends,
    traffic: GatewayTraffic,
) -> MeshStatus:
    return MeshStatus(
        host.registry,
        backends,
        own_id=host.process.instance_id,
        traffic=traffic,
        certificates=host.process.certificates,
        sinks=receiver.fan_out.statuses,
    )


def _server(
    process: ServiceProcess[GatewaySettings],
    relay: Relay,
    inference: InferenceServicer,
    servicer: TelemetryServicer,
    live: Live,
    fan_out: FanOut,
    entrance: Entrance,
    settle_s: float,
) -> MeshServer:
    return process.make_server(
        process.settings.listen,
        services=[
            (add_TelemetryServiceServicer_to_server, servicer),
            (add_GRPCInferenceServiceServicer_to_server, inference),
            (add_TranslationServiceServicer_to_server, _translation(process.settings)),
            *live.services(),
        ],
        service_names=_service_names(),
        options=_server_options(process.settings, settle_s),
        generic_handlers=(relay, *otlp_handlers(fan_out, fan_out.reject)),
        tls=_tls(process),
        entrance=GrpcEntrance(entrance),
        # Calls of clients begin a trace, the mesh's own do not.
        traced_methods={route.path for route in public_routes()},
        on_closing=inference.close,
    )


def _translation(settings: GatewaySettings) -> TranslationServicer:
    return TranslationServicer(refuse_unknown=settings.unknown_fields == "refuse")


def _server_options(settings: GatewaySettings, settle_s: float) -> ServerOptions:
    return ServerOptions(
        max_message_bytes=settings.max_message_bytes,
        max_held_bytes=settings.max_held_bytes,
        max_connections=settings.max_connections,
        max_concurrent_streams=settings.max_streams_per_connection,
        reflection=settings.reflection,
        keepalive_time_s=5,
        max_connection_age_s=settings.max_connection_age_s,
        hands_over_port=True,
        takes_over=settings.take_over,
        settle_s=settle_s,
        carriers=CARRIERS,
    )


def _tls(process: ServiceProcess[GatewaySettings]) -> ServerTls | None:
    if process.certificates is None:
        return None
    return ServerTls(
        process.certificates,
        at_gateway=True,
        client_certificates=process.settings.client_certificates == "required",
    )
