"""The model service: `python -m mlxmesh_model`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_model.assembly import make_server, open_catalogue
from mlxmesh_shared.process.service_host import ServiceSteps, open_host
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import ModelSettings, live_settings


async def main() -> None:
    """Serves until a stop is requested, then drains."""
    process = start_process(live_settings(ModelSettings, sys.argv[1:]), "model")
    async with open_host(process) as host, host.publishing() as events, AsyncExitStack() as stack:
        catalogue = await open_catalogue(stack, process, host.registry, events.publish)
        if await catalogue.leader.try_acquire():
            # Before a caller can ask for one of the models.
            await catalogue.recover()
            # From here on the catalogue states what runs now, not what ran when it was written.
            await catalogue.reconciler.reconcile()
        server = make_server(process, catalogue)
        # Calls that run during the drain may wait for the reconciler, so it is stopped afterwards.
        async with AsyncExitStack() as background:
            steps = ServiceSteps(
                before_ready=lambda: background.enter_async_context(catalogue.running())
            )
            await host.serve(server, grace_s=process.settings.drain_grace_s, steps=steps)


if __name__ == "__main__":
    sys.exit(run_service(main))
