"""The stream to a jobs service: assignments in, news of attempts out.

A session is one claim to the attempts that run here. It survives streams, and ends when it had no
confirmation for its lease: the jobs services may then have given its attempts to others.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from grpc import aio

from mlxmesh.job.v1.job_pb2 import BackEnd
from mlxmesh.job.v1.worker_pb2 import WorkRequest, WorkResponse
from mlxmesh.job.v1.worker_pb2_grpc import WorkerServiceStub
from mlxmesh_shared.errors import IllegalState, MeshError, ServiceUnavailable, WorkerLost
from mlxmesh_shared.process.service_host import running_in_background
from mlxmesh_worker import convert
from mlxmesh_worker.attempts import Attempts
from mlxmesh_worker.convert import Identity
from mlxmesh_worker.jobs_services import JobsServices
from mlxmesh_worker.lease import Lease
from mlxmesh_worker.outbox import Outbox
from mlxmesh_worker.telemetry import WorkerTelemetry

_log = logging.getLogger(__name__)

_RETRY_S = (0.05, 0.1, 0.2, 0.5)
_HELLO_TIMEOUT_S = 2.0
# News that arrive together travel together.
_GATHER_S = 0.005
_CHECK_S = 0.1


class BackEnds(Protocol):
    """What the jobs service is told about back ends."""

    @property
    def version(self) -> int:
        """Grows with each change."""
        ...

    def listed(self) -> Sequence[BackEnd]:
        """All of them."""
        ...

    def busy(self) -> Sequence[str]:
        """Connectors without a healthy back end with a free slot."""
        ...

    def free_slots(self) -> Mapping[str, int]:
        """The free slots of healthy back ends, by connector."""
        ...


class Link:
    """Keeps one stream open, to one jobs service after another."""

    def __init__(
        self,
        *,
        identity: Identity,
        services: JobsServices,
        attempts: Attempts,
        outbox: Outbox,
        back_ends: BackEnds,
        telemetry: WorkerTelemetry | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """clock: monotonic; it goes on while this process is stopped."""
        self._identity = identity
        self._services = services
        self._attempts = attempts
        self._outbox = outbox
        self._back_ends = back_ends
        self._telemetry = telemetry or WorkerTelemetry()
        self._clock = clock
        self._leaving = False
        self._begin_session()
        attempts.on_change = outbox.news.set
        attempts.is_lost = lambda: self._lease.expired

    @property
    def session(self) -> str:
        """The id of the session."""
        return self._session

    def _begin_session(self) -> None:
        self._session = secrets.token_hex(16)
        self._lease = Lease(self._clock)
        self._ended = asyncio.Event()

    def leave(self) -> None:
        """Takes no more jobs from now on."""
        self._leaving = True
        self._outbox.news.set()

    async def run(self) -> None:
        """Keeps the stream open until cancelled."""
        async with running_in_background(self._services.run(), self._keep_lease()):
            await self._keep_connected()

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            if self._lease.expired:
                self._lose_session("no confirmation came within its lease")

    def _lose_session(self, why: str) -> None:
        held = len(self._attempts.held)
        _log.warning("the session ended: %s; %d attempts are dropped", why, held)
        self._telemetry.lease_losses += 1
        ended = self._ended
        self._begin_session()
        self._attempts.drop_all()
        ended.set()

    async def _keep_connected(self) -> None:
        failures = 0
        while True:
            instance = await self._services.next()
            opened = self._telemetry.reconnects
            try:
                await self._converse(self._services.channel(instance))
            except (IllegalState, WorkerLost) as error:
                self._lose_session(error.message)
            except MeshError as error:
                level = logging.DEBUG if failures else logging.INFO
                _log.log(level, "no stream to %s: %s", instance.instance_id, error.message)
            self._services.failed()
            connected = self._telemetry.reconnects > opened
            failures = 0 if connected else failures + 1
            await asyncio.sleep(_RETRY_S[min(failures, len(_RETRY_S) - 1)])

    async def _converse(self, channel: aio.Channel) -> None:
        """One stream, until it or its session ends. Raises: MeshError that it ended with."""
        call = WorkerServiceStub(channel).Work()
        ended = self._ended
        stream = _Stream(call)
        tasks: list[asyncio.Task[Any]] = []
        try:
            await self._greet(stream)
            tasks = [
                asyncio.create_task(self._read(stream)),
                asyncio.create_task(self._write(stream)),
                asyncio.create_task(self._watch(stream)),
                asyncio.create_task(ended.wait()),
            ]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            call.cancel()

    async def _greet(self, stream: _Stream) -> None:
        self._lease.on_stream()
        self._outbox.rewind()
        hello = convert.hello(self._identity, self._session, self._attempts.held)
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                await self._send(stream, WorkRequest(hello=hello))
                response = await stream.call.read()
        except TimeoutError as error:
            raise ServiceUnavailable("the jobs service did not answer the Hello") from error
        if response is aio.EOF or not response.HasField("welcome"):
            raise ServiceUnavailable("the jobs service ended the stream")
        welcome = response.welcome
        stream.heartbeat_s = welcome.heartbeat_ms / 1000
        self._lease.on_welcome(welcome.lease_ms / 1000)
        self._telemetry.reconnects += 1
        self._attempts.drop(map(convert.attempt_key, welcome.fenced))
        self._take(stream, response)

    async def _read(self, stream: _Stream) -> None:
        while (response := await stream.call.read()) is not aio.EOF:
            self._take(stream, response)
        raise ServiceUnavailable("the jobs service ended the stream")

    def _take(self, stream: _Stream, response: WorkResponse) -> None:
        if response.confirmed:
            self._lease.on_confirmed(response.confirmed)
            self._outbox.confirm(response.confirmed)
        self._attempts.drop(map(convert.attempt_key, response.fenced))
        for message in response.assignments:
            stream.assignments += 1
            self._attempts.start(convert.assignment(message))
        for cancelled in response.cancellations:
            self._attempts.cancel(convert.attempt_key(cancelled))

    async def _write(self, stream: _Stream) -> None:
        news = self._outbox.news
        while True:
            try:
                async with asyncio.timeout(stream.heartbeat_s):
                    await news.wait()
            except TimeoutError:
                pass
            else:
                await asyncio.sleep(_GATHER_S)
            news.clear()
            if self._lease.expired:
                return  # the session ends
            await self._send(stream, WorkRequest())

    async def _send(self, stream: _Stream, message: WorkRequest) -> None:
        """Fills in and sends the next message."""
        stream.number += 1
        message.number = stream.number
        message.assignments = stream.assignments
        message.leaving = self._leaving
        message.free_slots = 0 if self._leaving else self._attempts.free_slots
        message.busy_connectors.extend(self._back_ends.busy())
        message.connector_slots.update(self._back_ends.free_slots())
        if stream.back_ends != self._back_ends.version:
            stream.back_ends = self._back_ends.version
            message.back_ends.extend(self._back_ends.listed())
        if not message.HasField("hello"):
            message.updates.extend(self._outbox.take(stream.number))
        self._lease.on_sent(stream.number)
        await stream.call.write(message)

    async def _watch(self, stream: _Stream) -> None:
        """Raises: ServiceUnavailable for a service that confirms nothing, while there is time to
        ask another one.
        """
        opened_s = self._clock()
        while True:
            await asyncio.sleep(stream.heartbeat_s)
            half_s = (self._lease.length_s or 0) / 2
            left_s = self._lease.left_s or 0
            if left_s < half_s and self._clock() - opened_s > half_s:
                raise ServiceUnavailable("the jobs service confirms nothing")


class _Stream:
    """The state of one stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.number = 0
        """Of the last message that was sent."""
        self.assignments = 0
        """How many were received."""
        self.heartbeat_s = 1.0
        self.back_ends = 0
        """The version that was sent."""
