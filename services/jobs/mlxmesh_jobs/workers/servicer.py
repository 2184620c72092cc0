"""WorkerService: one stream for each worker."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from mlxmesh.job.v1 import worker_pb2 as pb
from mlxmesh.job.v1.worker_pb2_grpc import WorkerServiceServicer
from mlxmesh_jobs.workers.connection import Connection
from mlxmesh_jobs.workers.convert import from_hello, from_report, to_orders, to_welcome
from mlxmesh_jobs.workers.workers import Workers
from mlxmesh_shared.errors import InvalidArgument, MeshError

_Context = aio.ServicerContext[Any, Any]
HEARTBEATS_PER_LEASE = 4


class WorkerServicer(WorkerServiceServicer):
    """Requests have passed the contract's rules."""

    def __init__(self, workers: Workers, *, lease_s: float) -> None:
        self._workers = workers
        self._lease_s = lease_s

    def Work(self, request_iterator: AsyncIterator[pb.WorkRequest], context: _Context) -> Any:
        return self._work(request_iterator, context)

    async def _work(self, requests: AsyncIterator[pb.WorkRequest], context: _Context) -> None:
        first = await anext(aiter(requests), None)
        if first is None:
            raise InvalidArgument("hello is required in the first message", field="hello")
        hello, report = from_hello(first), from_report(first, is_first=True)
        connection, fenced = await self._workers.connect(hello)
        reader = asyncio.create_task(self._read(connection, requests))
        try:
            await context.write(
                to_welcome(
                    lease_s=self._lease_s,
                    heartbeat_s=self._lease_s / HEARTBEATS_PER_LEASE,
                    fenced=fenced,
                )
            )
            await self._workers.receive(connection, report)
            while (orders := await connection.outbox.take()) is not None:
                await context.write(to_orders(orders))
        finally:
            reader.cancel()
            self._workers.disconnect(connection)

    async def _read(self, connection: Connection, requests: AsyncIterator[pb.WorkRequest]) -> None:
        """Takes what the worker sends; the stream ends when it does, or with what is wrong."""
        error: Exception | None = None
        try:
            async for request in requests:
                await self._workers.receive(connection, from_report(request))
        except MeshError as failed:
            error = failed
        finally:
            connection.close(error)
