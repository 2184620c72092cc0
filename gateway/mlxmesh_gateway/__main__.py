"""The gateway's process: `python -m mlxmesh_gateway`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_gateway.assembly import ALWAYS_SERVING, make_gateway
from mlxmesh_gateway.http.server import HttpPort
from mlxmesh_gateway.http_app import serving_http
from mlxmesh_gateway.otlp.assembly import Receiver, open_receiver
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.process.service_host import ServiceHost, ServiceSteps, open_host
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.registry import Instance, Registry
from mlxmesh_shared.rpc.server import SETTLE_S
from mlxmesh_shared.settings import GatewaySettings, live_settings


async def main() -> None:
    """Serves until a stop is requested, then drains."""
    live = live_settings(GatewaySettings, sys.argv[1:])
    settings = live.current
    process = start_process(
        live,
        "gateway",
        # Else it stores only policies and usage there, once there is an access service.
        uses_data_dir=settings.registry == "directory",
        sample_ratio=settings.trace_sample_ratio,
    )
    receiver = open_receiver(settings, process.instance_id)
    async with receiver.running(), open_host(process, local_sink=receiver.fan_out) as host:
        await serve(host, receiver)


async def serve(
    host: ServiceHost[GatewaySettings], receiver: Receiver, *, settle_s: float = SETTLE_S
) -> None:
    """Serves from listening to the end of the drain; the caller owns host and receiver.

    settle_s: how long clients have to see that this gateway is leaving, before its port closes.
    """
    settings = host.process.settings
    gateway = make_gateway(host, receiver, settle_s=settle_s)
    with HttpPort(settings.http_listen, take_over=settings.take_over) as port:
        async with (
            AsyncExitStack() as connections,
            AsyncExitStack() as events,
            AsyncExitStack() as access,
            AsyncExitStack() as http,
        ):
            connections.push_async_callback(gateway.close)

            async def get_ready() -> None:
                await events.enter_async_context(gateway.events.running(settings.event_webhooks))
                await gateway.backends.start()
                await access.enter_async_context(gateway.access.running())
                await http.enter_async_context(
                    serving_http(
                        port,
                        gateway.http,
                        host.process.telemetry.of_process,
                        receiver.prometheus,
                        settings,
                        must_authenticate=lambda: gateway.access.requirement.on,
                    )
                )

            async def hand_over(instance: Instance) -> None:
                await port.leave()
                if await _has_successor(host.registry, instance):
                    await gateway.server.hand_over()
                port.start_drain()  # beside that of the gRPC server, with the same grace
                await gateway.backends.stop_following()

            steps = ServiceSteps(
                facts={"http": port.address},
                serving=ALWAYS_SERVING,  # the others are SERVING while a backend is registered
                before_ready=get_ready,
                before_drain=hand_over,
            )
            await host.serve(gateway.server, grace_s=settings.drain_grace_s, steps=steps)


async def _has_successor(registry: Registry, instance: Instance) -> bool:
    """Whether another gateway listens on the same address; False if the registry fails."""
    try:
        others = await registry.resolve("gateway")
    except (MeshError, OSError):
        return False
    return any(other.address == instance.address for other in others)


if __name__ == "__main__":
    sys.exit(run_service(main))
