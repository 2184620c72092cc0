"""A worker: `python -m mlxmesh_worker`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_shared.process.service_host import ServiceSteps, open_host
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import WorkerSettings, live_settings
from mlxmesh_worker.assembly import make_server, open_worker
from mlxmesh_worker.connectors.loading import load_connectors


async def main() -> None:
    """Runs jobs until a stop is requested, then lets them end or gives them back."""
    process = start_process(live_settings(WorkerSettings, sys.argv[1:]), "worker")
    connectors = load_connectors(process.settings.connectors)
    async with open_host(process) as host, host.publishing(), AsyncExitStack() as stack:
        worker = await open_worker(stack, process, host.registry, connectors)
        server = make_server(process)
        async with AsyncExitStack() as background:
            steps = ServiceSteps(
                # A jobs service asks the registry whether a worker without a stream is lost.
                before_ready=lambda: background.enter_async_context(worker.running()),
                before_deregistration=worker.leave,
            )
            await host.serve(server, grace_s=process.settings.stop_grace_s, steps=steps)


if __name__ == "__main__":
    sys.exit(run_service(main))
