"""The access service: `python -m mlxmesh_access`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_access.assembly import make_server, open_access
from mlxmesh_shared.process.service_host import ServiceSteps, open_host
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import AccessSettings, live_settings


async def main() -> None:
    """Serves until a stop is requested, then drains."""
    process = start_process(live_settings(AccessSettings, sys.argv[1:]), "access")
    async with open_host(process) as host, AsyncExitStack() as stack:
        access = await open_access(stack, process.settings)
        server = make_server(process, access)
        async with AsyncExitStack() as background:
            steps = ServiceSteps(
                before_ready=lambda: background.enter_async_context(
                    access.running(host.registry, process.instance_id)
                )
            )
            await host.serve(server, grace_s=process.settings.drain_grace_s, steps=steps)


if __name__ == "__main__":
    sys.exit(run_service(main))
