"""Jobs of the kind generation: their output is stored as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mlxmesh_shared.errors import MeshError
from mlxmesh_worker.convert import owner_metadata
from mlxmesh_worker.instances import Instances
from mlxmesh_worker.kinds.convert import generation_result, used_of
from mlxmesh_worker.kinds.convert_stream import Received
from mlxmesh_worker.kinds.generation_run import GenerationRun
from mlxmesh_worker.kinds.sinks import OutputStream
from mlxmesh_worker.work import Assignment, AttemptFailed, Reports

_DEFAULT_OUTPUTS = 1
Report = Callable[[], None]

LOOK_INTERVAL_S = 60.0
"""How often the mesh is asked whether it has a generation still."""


class GenerationRunner:
    """Satisfies Runner."""

    def __init__(self, instances: Instances, *, look_interval_s: float = LOOK_INTERVAL_S) -> None:
        """instances: of the generation service."""
        self._instances = instances
        self._look_interval_s = look_interval_s

    async def run(self, assignment: Assignment, reports: Reports) -> Any:
        message = assignment.message
        request = message.generation
        received = Received(
            request.n or _DEFAULT_OUTPUTS,
            message.position if message.HasField("position") else None,
            message.started if message.HasField("started") else None,
        )
        report = progress_report(request, received, reports)
        sink = OutputStream(reports, received, stored=message.outputs)
        run = GenerationRun(
            instances=self._instances,
            request=request,
            metadata=owner_metadata(message.owner),
            received=received,
            sink=sink,
            timeout_s=assignment.timeout_s,
            on_output=report,
        )
        async with sink.sending():
            finished = await run_to_end(
                run,
                reports,
                attach=assignment.key.attempt > 1,
                received=received,
                report=report,
                look_interval_s=self._look_interval_s,
            )
        return generation_result(received.started, finished, sink.messages)


async def run_to_end(
    run: GenerationRun,
    reports: Reports,
    *,
    attach: bool,
    received: Received,
    report: Report,
    look_interval_s: float = LOOK_INTERVAL_S,
) -> Any:
    """The end of a generation. One that ends without it is freed, unless another attempt has it.

    report: called in each interval in which the mesh says that it has the generation.
    Raises: AttemptFailed.
    """
    try:
        async with _told_alive(run, report, look_interval_s):
            return await run.run(attach=attach)
    except asyncio.CancelledError:
        if reports.stop is not None and reports.stop.ends_work:
            await run.cancel()
        raise
    except MeshError as error:
        # What is kept of a failed generation must not be found by the next attempt.
        await run.cancel()
        raise AttemptFailed(error, used=used_of(received.started, None, received.tokens)) from error


def progress_report(request: Any, received: Received, reports: Reports) -> Report:
    """Reports how many tokens there are."""
    total = request.max_tokens * (request.n or _DEFAULT_OUTPUTS)

    def report() -> None:
        reports.progress(done=received.tokens, total=total, unit="tokens")

    return report


@asynccontextmanager
async def _told_alive(
    run: GenerationRun, report: Report, interval_s: float
) -> AsyncGenerator[None]:
    """Reports a generation without output too, as long as the mesh says that it has it.

    One of the flex tier may wait for as long as other requests leave no time for it.
    """
    looking = asyncio.create_task(_look_regularly(run, report, interval_s))
    try:
        yield
    finally:
        looking.cancel()


async def _look_regularly(run: GenerationRun, report: Report, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        if await run.is_there():
            report()
