"""The simulation by HTTP: begins a job, and asks until it has ended."""

from __future__ import annotations

from typing import ClassVar

from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.files import MAX_FILE_BYTES, Outputs
from mlxmesh_worker.connectors.http import READ_TRIES, HttpClient
from mlxmesh_worker.connectors.port import Outcome, Reports, Target, Task
from mlxmesh_worker.connectors.simulation.work import (
    SimulationConnector,
    Status,
    failure_of,
    order_of,
    outcome_of,
    reported,
    status_of,
)
from mlxmesh_worker.connectors.stopping import stopped_if_cancelled

JOBS = "/v1/jobs"
# How long an answer may wait for news. Short enough to be cancelled soon.
WAIT_S = 0.5


class SimulationHttp(SimulationConnector):
    """The connector simulation_http."""

    name: ClassVar[str] = "simulation_http"

    def __init__(self, target: Target) -> None:
        self._http = HttpClient(parse_address(target))

    async def close(self) -> None:
        """As Connector."""
        await self._http.close()

    async def probe(self) -> None:
        """As Connector."""
        await self._http.probe("/health")

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector. Nothing is remembered: the back end knows jobs by their ids."""
        order = order_of(task)

        async def stop() -> None:
            await cancel(self._http, task)

        return await stopped_if_cancelled(
            self._ran({"wait_s": WAIT_S, **order}, reports), stop, reports
        )

    async def _ran(self, order: object, reports: Reports) -> Outcome:
        status = status_of(await self._http.json("POST", JOBS, body=order))
        while status.state == "running":
            await reported(status, reports)
            # Begun again, an attempt goes on; so one request serves to begin, to ask and to go on.
            status = status_of(await self._http.json("POST", JOBS, body=order))
        return await finished(self._http, status, reports)


async def finished(http: HttpClient, status: Status, reports: Reports) -> Outcome:
    """Downloads what a job has made. Raises: MeshError if it has not succeeded."""
    if failure := failure_of(status):
        raise failure
    outputs = Outputs(reports)
    for path in status.outputs:
        async with http.stream("GET", path, max_bytes=MAX_FILE_BYTES, tries=READ_TRIES) as response:
            await outputs.store(path, response.chunks)
    return outcome_of(status, outputs)


async def cancel(http: HttpClient, task: Task) -> None:
    """Cancels an attempt. One that is not the latest any more is left alone."""
    query = {"job_id": task.job_id, "attempt": str(task.attempt)}
    await http.json("DELETE", JOBS, query=query)
