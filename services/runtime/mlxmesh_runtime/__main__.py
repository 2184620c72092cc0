"""The runtime process, from its settings to its drain."""

from __future__ import annotations

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import end_at_interrupt

    end_at_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack
from functools import partial

from mlxmesh.runtime.v1.runtime_pb2_grpc import add_RuntimeServiceServicer_to_server
from mlxmesh_runtime.device import find_device, free_memory
from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_runtime.engine_run import EngineHost
from mlxmesh_runtime.engines import Engines
from mlxmesh_runtime.hand_over import hand_over
from mlxmesh_runtime.heartbeat import GrpcEngineProbe, HeartbeatLimits
from mlxmesh_runtime.servicer import RuntimeServicer
from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_runtime.supervisor import RestartLimits
from mlxmesh_shared.events import publishing
from mlxmesh_shared.process.live import following
from mlxmesh_shared.process.startup import check_data_dir, run_service, wait_for_stop
from mlxmesh_shared.registry import Registry, local_instance, open_registry
from mlxmesh_shared.rpc.channels import open_channel
from mlxmesh_shared.rpc.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import LiveSettings, RuntimeSettings, live_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json
from mlxmesh_shared.telemetry.calls import ServedCalls
from mlxmesh_shared.telemetry.setup import ProcessTelemetry
from mlxmesh_shared.tls import CertificateSource, ServerTls, open_certificates

DRAIN_GRACE_S = 5.0


async def main() -> None:
    """Serve until told to stop; then hand over or stop every engine, and only then leave."""
    live = live_settings(RuntimeSettings, sys.argv[1:])
    settings = live.current
    check_data_dir(settings.data_dir)
    runtime_id = new_instance_id("runtime")
    setup_logging(
        service="runtime",
        instance_id=runtime_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    async with following(live, "runtime"):
        await serve(live, runtime_id, EngineCommand(mesh=settings))


async def serve(
    live: LiveSettings[RuntimeSettings], runtime_id: str, command: EngineCommand
) -> None:
    """Run the service with this engine program until told to stop."""
    settings = live.current
    telemetry = ProcessTelemetry(settings, "runtime", runtime_id)
    certificates = open_certificates(settings, "runtime")
    async with AsyncExitStack() as stack:
        spare = SpareEngine(command.spare_line() if settings.spare_engine else ())
        stack.push_async_callback(spare.close)
        await spare.start()
        device = await find_device()
        registry = open_registry(settings, certificates)
        stack.push_async_callback(registry.close)
        await stack.enter_async_context(telemetry.exporting(registry, certificates))
        events = await stack.enter_async_context(
            publishing(
                live, registry, service="runtime", instance_id=runtime_id, certificates=certificates
            )
        )
        engines = Engines(
            host=_host(settings, runtime_id, registry, command, certificates, spare),
            limits=_restart_limits(settings),
            free_memory=lambda: free_memory(device.kind),
            memory_fraction=settings.memory_fraction,
            publish=events.publish,
        )
        servicer = RuntimeServicer(
            engines=engines,
            device=device,
            runtime_id=runtime_id,
            stop_grace_s=settings.stop_grace_s,
        )
        server = MeshServer(
            listen=settings.listen,
            services=[(add_RuntimeServiceServicer_to_server, servicer)],
            service_names=["mlxmesh.runtime.v1.RuntimeService"],
            options=ServerOptions(log_successes=False, reflection=settings.reflection),
            name="runtime",
            tls=certificates and ServerTls(certificates),
            watcher=ServedCalls(telemetry.of_process),
        )
        address = await server.start()
        await server.set_serving()
        instance = local_instance(settings, "runtime", runtime_id, address, device=device.kind)
        await registry.register(instance)
        await wait_for_stop(server.leaving)
        await hand_over(registry, instance, engines, settings.hand_over_s)
        await registry.deregister(instance)
        await server.set_not_serving()
        await engines.close(settings.stop_grace_s)
        await server.drain(DRAIN_GRACE_S)


def _host(
    settings: RuntimeSettings,
    runtime_id: str,
    registry: Registry,
    command: EngineCommand,
    certificates: CertificateSource | None,
    spare: SpareEngine,
) -> EngineHost:
    return EngineHost(
        runtime_id=runtime_id,
        mesh=settings,
        registry=registry,
        command=command,
        logs_dir=settings.data_dir / "logs",
        heartbeat=HeartbeatLimits(
            interval_s=settings.heartbeat_interval_s,
            timeout_s=settings.heartbeat_timeout_s,
            liveness_timeout_s=settings.liveness_timeout_s,
            step_stall_timeout_s=settings.step_stall_timeout_s,
        ),
        start_timeout_s=settings.start_timeout_s,
        spare=spare,
        stop_grace_s=settings.stop_grace_s,
        open_probe=partial(GrpcEngineProbe, open_=partial(open_channel, certificates=certificates)),
    )


def _restart_limits(settings: RuntimeSettings) -> RestartLimits:
    return RestartLimits(
        backoff_min_s=settings.restart_backoff_min_s,
        backoff_max_s=settings.restart_backoff_max_s,
        breaker_failures=settings.breaker_failures,
        failure_reset_s=settings.failure_reset_s,
    )


if __name__ == "__main__":
    sys.exit(run_service(main))
