"""A call within another one: to the guard and the handler it is a call like any other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import Message
from grpc import aio

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.error_status import from_status

Behaviour = Callable[[None, Any], Awaitable[Any]]
"""The guarded behaviour of a method: it reads the request from a CarriedCall, and writes responses
to it or returns the only one."""
Guarded = Callable[[str, Any], Behaviour]
"""`MeshServer.guarded`."""
Metadata = Iterable[tuple[str, str | bytes]]


class CarriedCall:
    """Has the part of gRPC's `ServicerContext` that guard, telemetry and handlers use."""

    def __init__(
        self,
        carrier: aio.ServicerContext[Any, Any],
        *,
        request: bytes,
        metadata: Metadata,
        timeout_s: float | None,
        write: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """carrier: the call that carries this one, whose peer is this one's too.

        write: accepts an encoded response of a stream; waits while the reader is slow.
        """
        self.error: MeshError | None = None
        self._carrier = carrier
        self._request = request
        self._metadata = tuple(metadata)
        self._loop = asyncio.get_running_loop()
        self._until_s = None if timeout_s is None else self._loop.time() + timeout_s
        self._write = write

    async def run(self, behaviour: Behaviour) -> Any:
        """Runs the call in this task; returns its response. Raises: its error."""
        try:
            return await behaviour(None, self)
        except aio.AbortError:
            assert self.error is not None, "abort_with_status() has noted it"
            raise self.error from None

    # As of ServicerContext.

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        return self._metadata

    def peer(self) -> str:
        return self._carrier.peer()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._carrier.auth_context()

    def time_remaining(self) -> float | None:
        return None if self._until_s is None else max(0.0, self._until_s - self._loop.time())

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK if self.error is None else self.error.code

    async def read(self) -> bytes:
        """The one request."""
        request, self._request = self._request, b""  # a long stream must not hold it
        return request

    async def write(self, response: Message | bytes) -> None:
        encoded = response if isinstance(response, bytes) else response.SerializeToString()
        await self._write(encoded)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()
    ) -> None:
        await self.abort_with_status(_Status(code, details, tuple(trailing_metadata)))

    async def abort_with_status(self, status: grpc.Status | _Status) -> None:
        self.error = from_status(status)
        raise aio.AbortError


class _Status(NamedTuple):
    """Has the attributes of grpc.Status."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]
