"""The simulation by gRPC: one stream for each job, which tells its progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any, ClassVar

from google.protobuf.wrappers_pb2 import BytesValue

from mlxmesh_shared.errors import BackEndFailed, ServiceUnavailable
from mlxmesh_worker.connectors.address import parse_address
from mlxmesh_worker.connectors.files import MAX_FILE_BYTES, Outputs
from mlxmesh_worker.connectors.grpc import GrpcClient
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

SERVICE = "/mlxmesh.simulation.v1.SimulationService"
PATIENCE_S = 30.0
_DELAY_S = 0.2


class SimulationGrpc(SimulationConnector):
    """The connector simulation_grpc."""

    name: ClassVar[str] = "simulation_grpc"

    def __init__(self, target: Target) -> None:
        self._client = GrpcClient(parse_address(target, ("grpc",)))

    async def close(self) -> None:
        """As Connector."""
        await self._client.close()

    async def probe(self) -> None:
        """As Connector."""
        await self._client.probe()

    async def run(self, task: Task, reports: Reports) -> Outcome:
        """As Connector. Nothing is remembered: the back end knows jobs by their ids."""
        order = order_of(task)

        async def stop() -> None:
            named = {"job_id": task.job_id, "attempt": task.attempt}
            await self._client.call(f"{SERVICE}/Cancel", named)

        return await stopped_if_cancelled(self._ran(order, reports), stop, reports)

    async def _ran(self, order: Mapping[str, Any], reports: Reports) -> Outcome:
        status = await self._ended(order, reports)
        if failure := failure_of(status):
            raise failure
        outputs = Outputs(reports)
        for path in status.outputs:
            await outputs.store(path, self._content(path))
        return outcome_of(status, outputs)

    async def _ended(self, order: Mapping[str, Any], reports: Reports) -> Status:
        clock = asyncio.get_running_loop().time
        give_up_at = clock()
        while True:
            try:
                opened = self._client.objects(f"{SERVICE}/Simulate", order)
                async with aclosing(opened) as answers:
                    async for answer in answers:
                        give_up_at = clock() + PATIENCE_S
                        status = status_of(answer)
                        if status.state != "running":
                            return status
                        await reported(status, reports)
                raise BackEndFailed("the simulation ended its stream before the job")
            except ServiceUnavailable:
                # Begun again, an attempt goes on.
                if clock() >= give_up_at:
                    raise
            await asyncio.sleep(_DELAY_S)

    async def _content(self, path: str) -> AsyncIterator[bytes]:
        opened = self._client.stream(
            f"{SERVICE}/Download", {"path": path}, BytesValue, max_bytes=MAX_FILE_BYTES
        )
        async with aclosing(opened) as pieces:
            async for piece in pieces:
                yield piece.value
