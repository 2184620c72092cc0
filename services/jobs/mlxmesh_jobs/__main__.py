"""The jobs service: `python -m mlxmesh_jobs`."""

if __name__ == "__main__":
    from mlxmesh_shared.process.interrupt import exit_on_interrupt

    exit_on_interrupt()  # the imports below take a while

import sys
from contextlib import AsyncExitStack

from mlxmesh_jobs.assembly import Surroundings, make_server, open_jobs
from mlxmesh_jobs.clock import Clock, system_clock
from mlxmesh_shared.process.service_host import ServiceSteps, open_host
from mlxmesh_shared.process.service_process import start_process
from mlxmesh_shared.process.startup import run_service
from mlxmesh_shared.settings import JobsSettings, live_settings


async def main(*, clock: Clock = system_clock) -> None:
    """Serves until a stop is requested, then drains.

    clock: the time of day.
    """
    process = start_process(live_settings(JobsSettings, sys.argv[1:]), "jobs")
    async with open_host(process) as host, AsyncExitStack() as stack:
        bus = await stack.enter_async_context(host.publishing())
        around = Surroundings(
            instance_id=process.instance_id,
            publish=bus.publish,
            open_channel=process.open_channel,
            metrics=process.telemetry.of_process.metrics,
            clock=clock,
        )
        jobs = await open_jobs(stack, process.settings, around)
        server = make_server(process, jobs)
        async with AsyncExitStack() as background:
            steps = ServiceSteps(
                before_ready=lambda: background.enter_async_context(jobs.running(host.registry)),
                before_drain=lambda _: jobs.drain(),
            )
            await host.serve(server, grace_s=process.settings.drain_grace_s, steps=steps)


if __name__ == "__main__":
    sys.exit(run_service(main))
