"""The runtime process, from its settings to its drain."""

from __future__ import annotations

import os
import sys
from contextlib import AsyncExitStack

from mlxmesh.runtime.v1.runtime_pb2_grpc import add_RuntimeServiceServicer_to_server
from mlxmesh_runtime.device import find_device, free_memory
from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_runtime.engine_run import EngineHost
from mlxmesh_runtime.engines import Engines
from mlxmesh_runtime.heartbeat import HeartbeatLimits
from mlxmesh_runtime.servicer import RuntimeServicer
from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_runtime.supervisor import RestartLimits
from mlxmesh_shared.process import run_service, wait_for_stop
from mlxmesh_shared.registry import open_registry
from mlxmesh_shared.registry.port import Instance, Registry
from mlxmesh_shared.server import MeshServer, ServerOptions
from mlxmesh_shared.settings import RuntimeSettings, load_settings
from mlxmesh_shared.telemetry import new_instance_id, setup_logging, wants_json

DRAIN_GRACE_S = 5.0


async def main() -> None:
    """Serve until told to stop; then stop every engine, and only then this process."""
    settings = load_settings(RuntimeSettings, sys.argv[1:])
    runtime_id = new_instance_id("runtime")
    setup_logging(
        service="runtime",
        instance_id=runtime_id,
        level=settings.log_level,
        json=wants_json(settings.log_format),
    )
    await serve(settings, runtime_id, _engine_command(settings))


async def serve(settings: RuntimeSettings, runtime_id: str, command: EngineCommand) -> None:
    """Run the service with this engine program until told to stop."""
    async with AsyncExitStack() as stack:
        spare = SpareEngine(command.spare_line() if settings.spare_engine else ())
        stack.push_async_callback(spare.close)
        await spare.prepare()
        device = await find_device()
        registry = open_registry(settings)
        stack.push_async_callback(registry.close)
        engines = Engines(
            host=_host(settings, runtime_id, registry, command, spare),
            limits=_restart_limits(settings),
            free_memory=lambda: free_memory(device.kind),
            memory_fraction=settings.memory_fraction,
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
            options=ServerOptions(log_successes=False),
            name="runtime",
        )
        address = await server.start()
        await server.set_serving()
        facts = {"device": device.kind, "host": device.host}
        instance = Instance("runtime", runtime_id, address, os.getpid(), facts)
        await registry.register(instance)
        await wait_for_stop()
        await registry.deregister(instance)
        await server.set_not_serving()
        await engines.close(settings.stop_grace_s)
        await server.drain(DRAIN_GRACE_S)


def _host(
    settings: RuntimeSettings,
    runtime_id: str,
    registry: Registry,
    command: EngineCommand,
    spare: SpareEngine,
) -> EngineHost:
    return EngineHost(
        runtime_id=runtime_id,
        registry=registry,
        command=command,
        logs_dir=settings.data_dir / "logs",
        heartbeat=HeartbeatLimits(
            interval_s=settings.heartbeat_interval_s,
            timeout_s=settings.heartbeat_timeout_s,
            silent_after_s=settings.silent_after_s,
            stuck_after_s=settings.stuck_after_s,
        ),
        start_timeout_s=settings.start_timeout_s,
        spare=spare,
    )


def _engine_command(settings: RuntimeSettings) -> EngineCommand:
    return EngineCommand(
        data_dir=settings.data_dir,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def _restart_limits(settings: RuntimeSettings) -> RestartLimits:
    return RestartLimits(
        backoff_min_s=settings.restart_backoff_min_s,
        backoff_max_s=settings.restart_backoff_max_s,
        breaker_failures=settings.breaker_failures,
        steady_after_s=settings.steady_after_s,
    )


if __name__ == "__main__":
    sys.exit(run_service(main))
