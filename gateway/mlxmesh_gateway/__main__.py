"""The gateway's process: `python -m mlxmesh_gateway`."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

from mlxmesh_gateway.backends import Backends
from mlxmesh_gateway.limits import Deadlines
from mlxmesh_gateway.relay import Relay
from mlxmesh_gateway.routes import BACKENDS, public_routes
from mlxmesh_shared.process import run_service, wait_for_stop
from mlxmesh_shared.registry import Instance, Registry, open_registry
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import GatewaySettings, load_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json


async def main() -> None:
    """Reads the settings, then serves until a stop is asked for."""
    settings = load_settings(GatewaySettings, sys.argv[1:])
    instance_id = new_instance_id("gateway")
    setup_logging(
        service="gateway",
        instance_id=instance_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    registry = open_registry(settings)
    try:
        await serve(settings, instance_id, registry, until=wait_for_stop)
    finally:
        await registry.close()


async def serve(
    settings: GatewaySettings,
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

    backends = Backends(registry, tuple(BACKENDS), on_change=show_backend)
    server = _server(settings, backends)
    instance = Instance("gateway", instance_id, await server.start(), os.getpid())
    try:
        await backends.start()
        await server.set_health("", serving=True)
        await registry.register(instance)
        await until(server.leaving)
    finally:
        await registry.deregister(instance)
        if await registry.resolve("gateway"):
            await server.hand_over()
        await backends.stop_following()
        await server.drain(settings.drain_grace_s)
        await backends.close()


def _server(settings: GatewaySettings, backends: Backends) -> MeshServer:
    names = [service.full_name for service in BACKENDS.values()]
    relay = Relay(
        routes=public_routes(),
        backends=backends,
        validator=Validator.for_services(*BACKENDS.values()),
        deadlines=Deadlines(settings.default_deadline_s, settings.max_deadline_s),
    )
    options = ServerOptions(
        max_message_bytes=settings.max_message_bytes,
        max_concurrent_rpcs=settings.max_concurrent_rpcs,
        max_concurrent_streams=settings.max_streams_per_connection,
        reflection=settings.reflection,
        max_connection_age_s=settings.max_connection_age_s,
        hands_over_port=True,
        takes_over=settings.take_over,
    )
    return MeshServer(
        listen=settings.listen,
        services=(),
        service_names=names,
        options=options,
        generic_handlers=(relay,),
        name="gateway",
    )


if __name__ == "__main__":
    sys.exit(run_service(main))
