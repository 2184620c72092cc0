"""The generation process: everything about text, between the gateway and the engines."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_generation.assembly import make_server, open_generations
from mlxmesh_shared.process.service_host import ServiceSteps, open_host
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.registry import OFFERS_RELAY
from mlxmesh_shared.settings import GenerationSettings, live_settings


async def main() -> None:
    """Serves until a stop is requested, then drains."""
    process = start_process(live_settings(GenerationSettings, sys.argv[1:]), "generation")
    async with open_host(process) as host, host.publishing() as events, AsyncExitStack() as stack:
        parts = await open_generations(stack, process, host.registry, events.publish)
        server = make_server(process, parts)
        steps = ServiceSteps(facts={OFFERS_RELAY: "1"})
        await host.serve(server, grace_s=process.settings.drain_grace_s, steps=steps)


if __name__ == "__main__":
    sys.exit(run_service(main))
