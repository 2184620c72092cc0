"""The runtime process, from its settings to its drain."""

from __future__ import annotations

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_runtime.assembly import make_server, open_engines, open_files, open_memory_watch
from mlxmesh_runtime.device import find_device
from mlxmesh_runtime.engine_command import EngineCommand
from mlxmesh_runtime.hand_over import hand_over
from mlxmesh_runtime.spare_engine import SpareEngine
from mlxmesh_shared.process.service_host import ServiceSteps, open_host, running_in_background
from mlxmesh_shared.process.service_process import ServiceProcess, start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.registry import Instance
from mlxmesh_shared.settings import RuntimeSettings, live_settings

DRAIN_GRACE_S = 5.0


async def main() -> None:
    """Serves until a stop is requested; hands over or stops every engine before it exits."""
    process = start_process(live_settings(RuntimeSettings, sys.argv[1:]), "runtime")
    settings = process.settings
    command = EngineCommand(mesh=settings, prefix_disk_bytes=settings.prefix_disk_bytes)
    await serve(process, command)


async def serve(process: ServiceProcess[RuntimeSettings], command: EngineCommand) -> None:
    """Runs the service with this engine program until a stop is requested."""
    settings = process.settings
    async with AsyncExitStack() as stack:
        # Before anything starts a thread: a fork is possible only without one.
        spare = SpareEngine(command.spare_line() if settings.spare_engine else ())
        stack.push_async_callback(spare.close)
        await spare.start()
        device = await find_device()
        host = await stack.enter_async_context(open_host(process))
        events = await stack.enter_async_context(host.publishing())
        files = open_files(process, host.registry, events.publish)
        stack.push_async_callback(files.sources.close)
        engines = open_engines(
            process, host.registry, command, spare, device, events.publish, files
        )
        memory = open_memory_watch(process, engines, device, events.publish)
        await stack.enter_async_context(running_in_background(memory.run()))
        server = make_server(process, engines, memory, device, files)

        async def tell_address() -> None:
            files.address = server.address

        async def hand_over_engines(instance: Instance) -> None:
            await hand_over(host.registry, instance, engines, settings.hand_over_s)

        async def stop_engines(_: Instance) -> None:
            await server.set_not_serving()
            await engines.close(settings.stop_grace_s)

        steps = ServiceSteps(
            facts={"device": device.kind},
            before_ready=tell_address,
            before_deregistration=hand_over_engines,
            before_drain=stop_engines,
        )
        await host.serve(server, grace_s=DRAIN_GRACE_S, steps=steps)


if __name__ == "__main__":
    sys.exit(run_service(main))
