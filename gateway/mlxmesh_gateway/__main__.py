"""The gateway's process: `python -m mlxmesh_gateway`."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial

from mlxmesh.telemetry.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from mlxmesh_gateway.backends import Backends
from mlxmesh_gateway.events import GatewayEvents
from mlxmesh_gateway.limits import Deadlines, places_per_caller
from mlxmesh_gateway.overload import OverloadEvents
from mlxmesh_gateway.relay import Relay
from mlxmesh_gateway.routes import BACKENDS, public_routes
from mlxmesh_gateway.status import MeshStatus
from mlxmesh_gateway.telemetry_servicer import TelemetryServicer
from mlxmesh_gateway.traffic import GatewayTraffic
from mlxmesh_shared.channels import open_channel
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.events import tell_changes
from mlxmesh_shared.live import following
from mlxmesh_shared.process import run_service, wait_for_stop
from mlxmesh_shared.registry import Instance, Registry, local_instance, open_registry
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import GatewaySettings, LiveSettings, live_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.tls import CertificateSource, ServerTls, open_certificates

TELEMETRY = "mlxmesh.telemetry.v1.TelemetryService"


async def main() -> None:
    """Reads the settings, then serves until a stop is asked for."""
    live = live_settings(GatewaySettings, sys.argv[1:])
    settings = live.current
    instance_id = new_instance_id("gateway")
    setup_logging(
        service="gateway",
        instance_id=instance_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    registry = open_registry(settings, open_certificates(settings, "gateway"))
    try:
        async with following(live, "gateway"):
            await serve(live, instance_id, registry, until=wait_for_stop)
    finally:
        await registry.close()


async def serve(
    live: LiveSettings[GatewaySettings],
    instance_id: str,
    registry: Registry,
    *,
    until: Callable[[asyncio.Event], Awaitable[object]],
) -> None:
    """Serves from registration to the end of the drain; the caller owns the registry.

    `until` is given the event that a call of ControlService's Drain sets.
    """

    async def show_backend(backend: str, known: bool) -> None:
        await server.set_health(BACKENDS[backend].full_name, serving=known)

    settings = live.current
    certificates = open_certificates(settings, "gateway")
    traffic = GatewayTraffic()
    events = GatewayEvents(registry, instance_id=instance_id, certificates=certificates)
    tell_changes(live, events.publish)
    backends = Backends(
        registry,
        tuple(BACKENDS),
        on_change=show_backend,
        open_=partial(open_channel, certificates=certificates),
        publish=events.publish,
    )
    relay = _relay(settings, backends, traffic)
    status = MeshStatus(
        registry, backends, own_id=instance_id, traffic=traffic, certificates=certificates
    )
    servicer = TelemetryServicer(status=status, events=events.log, traffic=traffic)
    overload = OverloadEvents(events.publish, instance_id=instance_id)
    server = _server(settings, relay, servicer, certificates, overload.refused)
    live.subscribe(lambda now: _limit(now, relay, server))
    instance = local_instance(settings, "gateway", instance_id, await server.start())
    async with events.running(settings.event_webhooks):
        try:
            await backends.start()
            await server.set_health("", serving=True)
            await server.set_health(TELEMETRY, serving=True)
            await registry.register(instance)
            await until(server.leaving)
        finally:
            await registry.deregister(instance)
            if await _followed(registry, instance):
                await server.hand_over()
            await backends.stop_following()
            await server.drain(settings.drain_grace_s)
            await backends.close()


async def _followed(registry: Registry, instance: Instance) -> bool:
    """Whether another gateway listens where this one does; a registry that is ill cannot tell."""
    try:
        others = await registry.resolve("gateway")
    except (MeshError, OSError):
        return False
    return any(other.address == instance.address for other in others)


def _limit(settings: GatewaySettings, relay: Relay, server: MeshServer) -> None:
    """Puts the settings that may change in their places."""
    relay.deadlines = _deadlines(settings)
    server.limit_concurrent_rpcs(
        settings.max_concurrent_rpcs, per_caller=_places_per_caller(settings)
    )


def _deadlines(settings: GatewaySettings) -> Deadlines:
    return Deadlines(settings.default_deadline_s, settings.max_deadline_s)


def _places_per_caller(settings: GatewaySettings) -> int:
    return places_per_caller(settings.max_concurrent_rpcs, settings.max_rpcs_per_caller)


def _relay(settings: GatewaySettings, backends: Backends, traffic: GatewayTraffic) -> Relay:
    return Relay(
        routes=public_routes(),
        backends=backends,
        validator=Validator.for_services(*BACKENDS.values()),
        deadlines=_deadlines(settings),
        resume_wait_s=settings.resume_wait_s,
        traffic=traffic,
    )


def _server(
    settings: GatewaySettings,
    relay: Relay,
    telemetry: TelemetryServicer,
    certificates: CertificateSource | None,
    on_refused: Callable[[int], None],
) -> MeshServer:
    names = [service.full_name for service in BACKENDS.values()]
    options = ServerOptions(
        max_message_bytes=settings.max_message_bytes,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
        max_rpcs_per_caller=_places_per_caller(settings),
        max_concurrent_streams=settings.max_streams_per_connection,
        reflection=settings.reflection,
        max_connection_age_s=settings.max_connection_age_s,
        hands_over_port=True,
        takes_over=settings.take_over,
    )
    return MeshServer(
        listen=settings.listen,
        services=[(add_TelemetryServiceServicer_to_server, telemetry)],
        service_names=[*names, TELEMETRY],
        options=options,
        generic_handlers=(relay,),
        name="gateway",
        tls=certificates and _tls(settings, certificates),
        on_refused=on_refused,
    )


def _tls(settings: GatewaySettings, certificates: CertificateSource) -> ServerTls:
    return ServerTls(
        certificates,
        at_gateway=True,
        client_certificates=settings.client_certificates == "required",
    )


if __name__ == "__main__":
    sys.exit(run_service(main))
