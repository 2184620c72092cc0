"""The gateway's process: `python -m mlxmesh_gateway`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import end_at_interrupt

    end_at_interrupt()  # the imports below take a while

import asyncio
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from mlxmesh.telemetry.v1.telemetry_pb2_grpc import add_TelemetryServiceServicer_to_server
from mlxmesh_gateway.backends import Backends
from mlxmesh_gateway.events import GatewayEvents
from mlxmesh_gateway.http.hosts import AnsweredHosts
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_gateway.http.tls import server_context
from mlxmesh_gateway.limits import Deadlines, places_per_caller
from mlxmesh_gateway.otlp.assembly import Receiver, open_receiver
from mlxmesh_gateway.otlp.fan_out import FanOut
from mlxmesh_gateway.otlp.messages import SERVICES as OTLP_SERVICES
from mlxmesh_gateway.otlp.services import otlp_handlers
from mlxmesh_gateway.otlp.traces import Traces
from mlxmesh_gateway.overload import OverloadEvents
from mlxmesh_gateway.relay import Relay
from mlxmesh_gateway.routes import BACKENDS, public_routes
from mlxmesh_gateway.status import MeshStatus
from mlxmesh_gateway.telemetry import observe_gateway
from mlxmesh_gateway.telemetry_servicer import TelemetryServicer
from mlxmesh_gateway.traffic import GatewayTraffic
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.events import tell_changes
from mlxmesh_shared.process.live import following
from mlxmesh_shared.process.startup import check_data_dir, run_service, wait_for_stop
from mlxmesh_shared.registry import Instance, Registry, local_instance, open_registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.requests import RequestParser
from mlxmesh_shared.rpc.server import SETTLE_S, MeshServer, ServerOptions
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.settings import GatewaySettings, LiveSettings, live_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.telemetry.calls import ServedCalls
from mlxmesh_shared.telemetry.metrics import Telemetry
from mlxmesh_shared.telemetry.setup import ProcessTelemetry
from mlxmesh_shared.tls import CertificateFiles, CertificateSource, ServerTls, open_certificates

TELEMETRY = "mlxmesh.telemetry.v1.TelemetryService"


async def main() -> None:
    """Reads the settings, then serves until a stop is asked for."""
    live = live_settings(GatewaySettings, sys.argv[1:])
    settings = live.current
    if settings.registry == "directory":  # else it keeps nothing there
        check_data_dir(settings.data_dir)
    instance_id = new_instance_id("gateway")
    setup_logging(
        service="gateway",
        instance_id=instance_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    ratio = settings.trace_sample_ratio
    telemetry = ProcessTelemetry(settings, "gateway", instance_id, sample_ratio=ratio)
    certificates = open_certificates(settings, "gateway")
    registry = open_registry(settings, certificates)
    try:
        receiver = open_receiver(settings, instance_id)
        own = telemetry.exporting(registry, certificates, local=receiver.fan_out)
        async with following(live, "gateway"), receiver.running(), own:
            await serve(
                live, instance_id, registry, receiver, telemetry.of_process, until=wait_for_stop
            )
    finally:
        await registry.close()


async def serve(
    live: LiveSettings[GatewaySettings],
    instance_id: str,
    registry: Registry,
    receiver: Receiver,
    telemetry: Telemetry | None = None,
    *,
    until: Callable[[asyncio.Event], Awaitable[object]],
    settle_s: float = SETTLE_S,
) -> None:
    """Serves from registration to the end of the drain; the caller owns registry and receiver.

    `until` is given the event that a call of ControlService's Drain sets. settle_s: how long
    clients get to see that this gateway is leaving, before its port closes.
    """

    async def show_backend(backend: str, known: bool) -> None:
        await server.set_health(BACKENDS[backend].full_name, serving=known)

    settings, telemetry = live.current, telemetry or Telemetry()
    certificates = open_certificates(settings, "gateway")
    open_ = partial(open_channel, certificates=certificates)
    traffic = GatewayTraffic()
    events = GatewayEvents(registry, instance_id=instance_id, certificates=certificates)
    tell_changes(live, events.publish)
    backends = Backends(
        registry,
        tuple(BACKENDS),
        on_change=show_backend,
        open_=open_,
        publish=events.publish,
    )
    relay = _relay(settings, backends, traffic)
    status = MeshStatus(
        registry,
        backends,
        own_id=instance_id,
        traffic=traffic,
        certificates=certificates,
        sinks=receiver.fan_out.statuses,
    )
    servicer = TelemetryServicer(
        status=status,
        events=events.log,
        traffic=traffic,
        traces=Traces(receiver.recent, registry, open_, instance_id=instance_id),
    )
    observe_gateway(telemetry.metrics, relay.counts, backends)
    overload = OverloadEvents(events.publish, instance_id=instance_id)
    server = _server(
        settings,
        relay,
        servicer,
        receiver.fan_out,
        certificates,
        on_refused=overload.refused,
        watcher=ServedCalls(telemetry, begins={route.path for route in public_routes()}),
        settle_s=settle_s,
    )
    live.subscribe(lambda now: _limit(now, relay, server))
    with HttpPort(settings.http_listen, take_over=settings.take_over) as http:
        address = await server.start()
        instance = local_instance(settings, "gateway", instance_id, address, http=http.address)
        async with events.running(settings.event_webhooks), AsyncExitStack() as answering:
            try:
                await answering.enter_async_context(
                    http.serving(partial(_http_app, receiver, settings), _http_tls(settings))
                )
                await backends.start()
                await server.set_health("", serving=True)
                await server.set_health(TELEMETRY, serving=True)
                await registry.register(instance)
                await until(server.leaving)
            finally:
                await registry.deregister(instance)
                if await _followed(registry, instance):
                    # HTTP clients go to the successor, like the others; else they see the drain.
                    await answering.aclose()
                    await server.hand_over()
                await backends.stop_following()
                await server.drain(settings.drain_grace_s)
                await status.close()
                await backends.close()


def _http_app(receiver: Receiver, settings: GatewaySettings) -> Any:
    # Not at the top: only a gateway that HTTP clients use needs the libraries behind it.
    from mlxmesh_gateway.http.app import create_app

    if settings.tls_dir is not None:
        return create_app(receiver.prometheus)  # no page has a certificate for this port
    own = (settings.http_listen.rpartition(":")[0], settings.advertise_host)
    return create_app(receiver.prometheus, AnsweredHosts([*settings.http_hosts, *own]))


def _http_tls(settings: GatewaySettings) -> Callable[[], ssl.SSLContext] | None:
    if settings.tls_dir is None:
        return None
    return partial(
        server_context,
        CertificateFiles.of_role(settings.tls_dir, "gateway"),
        client_certificates=settings.client_certificates == "required",
    )


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
        parser=RequestParser(Validator.for_services(*BACKENDS.values())),
        deadlines=_deadlines(settings),
        resume_wait_s=settings.resume_wait_s,
        traffic=traffic,
    )


def _server(
    settings: GatewaySettings,
    relay: Relay,
    servicer: TelemetryServicer,
    fan_out: FanOut,
    certificates: CertificateSource | None,
    *,
    on_refused: Callable[[int], None],
    watcher: ServedCalls,
    settle_s: float,
) -> MeshServer:
    names = [service.full_name for service in BACKENDS.values()]
    names += [service.name for service in OTLP_SERVICES.values()]
    options = ServerOptions(
        max_message_bytes=settings.max_message_bytes,
        max_held_bytes=settings.max_held_bytes,
        max_connections=settings.max_connections,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
        max_rpcs_per_caller=_places_per_caller(settings),
        max_concurrent_streams=settings.max_streams_per_connection,
        reflection=settings.reflection,
        max_connection_age_s=settings.max_connection_age_s,
        hands_over_port=True,
        takes_over=settings.take_over,
        settle_s=settle_s,
    )
    return MeshServer(
        listen=settings.listen,
        services=[(add_TelemetryServiceServicer_to_server, servicer)],
        service_names=[*names, TELEMETRY],
        options=options,
        generic_handlers=(relay, *otlp_handlers(fan_out, fan_out.reject)),
        name="gateway",
        tls=certificates and _tls(settings, certificates),
        on_refused=on_refused,
        # What clients ask for begins a trace, what the mesh asks itself does not.
        watcher=watcher,
    )


def _tls(settings: GatewaySettings, certificates: CertificateSource) -> ServerTls:
    return ServerTls(
        certificates,
        at_gateway=True,
        client_certificates=settings.client_certificates == "required",
    )


if __name__ == "__main__":
    sys.exit(run_service(main))
