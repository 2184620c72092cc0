"""The tools service: `python -m mlxmesh_tools`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_shared.process.service_host import ServiceSteps, open_host
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import ToolsSettings, live_settings
from mlxmesh_tools.assembly import Surroundings, make_server, open_tools
from mlxmesh_tools.servers.connection import quiet_sdk
from mlxmesh_tools.servers.supervisor import Timing


async def main() -> None:
    """Serves until a stop is requested, then drains, and ends the MCP servers."""
    process = start_process(live_settings(ToolsSettings, sys.argv[1:]), "tools")
    settings = process.settings
    quiet_sdk()
    async with open_host(process) as host, AsyncExitStack() as stack:
        bus = await stack.enter_async_context(host.publishing())
        around = Surroundings(
            instance_id=process.instance_id,
            publish=bus.publish,
            open_channel=process.open_channel,
            metrics=process.telemetry.of_process.metrics,
            timing=Timing(connect_timeout_s=settings.connect_timeout_s),
        )
        tools = await open_tools(stack, settings, around)
        server = make_server(process, tools)
        async with AsyncExitStack() as background:
            steps = ServiceSteps(
                before_ready=lambda: background.enter_async_context(tools.running(host.registry))
            )
            await host.serve(server, grace_s=settings.drain_grace_s, steps=steps)


if __name__ == "__main__":
    sys.exit(run_service(main))
