"""One call that a relay carries: to the server's guard and the handler, a call like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc import aio

from mlxmesh_generation.relay.outbox import OutputStream
from mlxmesh_shared.errors import Cancelled, DeadlineExceeded, MeshError
from mlxmesh_shared.rpc.error_status import from_status

Behaviour = Callable[[None, "RelayedCall"], Awaitable[object]]
"""The guarded behaviour of a method: it reads the request from the call and writes responses."""


class RelayedCall:
    """Has the part of gRPC's `ServicerContext` that guard, telemetry and handlers use."""

    def __init__(
        self,
        carrier: aio.ServicerContext[Any, Any],
        *,
        request: bytes,
        metadata: Iterable[tuple[str, str]],
        timeout_s: float | None,
        output: OutputStream,
    ) -> None:
        """carrier: the call that carries this one, whose peer is this one's too."""
        self.output = output
        self._carrier = carrier
        self._request = request
        self._metadata = tuple(metadata)
        self._loop = asyncio.get_running_loop()
        self._until_s = None if timeout_s is None else self._loop.time() + timeout_s
        self._expired = False
        self._error: MeshError | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, behaviour: Behaviour) -> asyncio.Task[None]:
        """Runs the call in a task, which ends after the call's end was queued."""
        self._task = asyncio.create_task(self._run(behaviour))
        return self._task

    def cancel(self) -> None:
        """As when a caller cancels; nothing more is sent."""
        self.output.discard()
        self._end()

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, behaviour: Behaviour) -> None:
        timer = self._loop.call_at(self._until_s, self._expire) if self._until_s else None
        try:
            await behaviour(None, self)
        except aio.AbortError:
            pass  # abort_with_status() has noted the error
        except asyncio.CancelledError:
            self._error = _EXPIRED if self._expired else _CANCELLED
        finally:
            if timer is not None:
                timer.cancel()
            self.output.end(self._error)

    def _expire(self) -> None:
        self._expired = True
        self._end()

    # As of ServicerContext.

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return self._carrier.peer()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._carrier.auth_context()

    def time_remaining(self) -> float | None:
        if self._until_s is None:
            return None
        return 0.0 if self._expired else max(0.0, self._until_s - self._loop.time())

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK if self._error is None else self._error.code

    async def read(self) -> bytes:
        """The one request."""
        request, self._request = self._request, b""  # a long stream must not hold it
        return request

    async def write(self, response: Message) -> None:
        await self.output.write(response.SerializeToString())

    async def abort_with_status(self, status: grpc.Status) -> None:
        self._error = from_status(status)
        raise aio.AbortError


_EXPIRED = DeadlineExceeded("the deadline passed before the response was complete; allow more time")
_CANCELLED = Cancelled("the call was cancelled")
