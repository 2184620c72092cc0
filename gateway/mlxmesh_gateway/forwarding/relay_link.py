"""The relay to one generation instance: one call that carries all its streams."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from google.protobuf.message import DecodeError
from grpc import StatusCode, aio

from mlxmesh.generation.v1.generation_pb2 import RelayRequest, RelayResponse
from mlxmesh_gateway.forwarding.multiplexer import Multiplexer, RelayedStream, rpc_error
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import cancel_requests

RELAY = "/mlxmesh.generation.v1.GenerationService/Relay"

_log = logging.getLogger(__name__)


class RelayLink:
    """Opens the relay with the first stream, and again with the first one after its end."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self._has_commands = asyncio.Event()
        self._streams = Multiplexer(self._has_commands.set)
        self._running: asyncio.Task[None] | None = None

    def start(self, path: str, request: bytes, **options: Any) -> RelayedStream:
        """A stream of a carried method, with the options of a gRPC call."""
        stream = self._streams.open(path, request, **options)
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="relay")
        return stream

    async def close(self) -> None:
        """Ends the relay and its streams."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            self._streams.end(_ended())  # a task that had not begun has ended none

    async def _run(self) -> None:
        error = _ended()
        try:
            await self._converse()
        except MeshError as ended:
            if isinstance(ended.__cause__, aio.AioRpcError):
                error = ended.__cause__
            _log.debug("a relay ended: %s", ended.reason)
        except DecodeError:
            error = rpc_error(StatusCode.INTERNAL, "the instance sent a malformed message")
            _log.error("a generation instance sent a malformed message on its relay")
        except asyncio.CancelledError:
            if cancel_requests():
                raise
        finally:
            self._running = None
            self._streams.end(error)

    async def _converse(self) -> None:
        channel: Any = self._channel
        call = channel.stream_stream(RELAY, request_serializer=RelayRequest.SerializeToString)()
        writer = asyncio.create_task(self._write(call))
        try:
            while (encoded := await call.read()) is not aio.EOF:
                self._streams.receive(RelayResponse.FromString(encoded))
        finally:
            writer.cancel()
            # Reading the relay reports how it ended.
            with suppress(MeshError, asyncio.CancelledError):
                await writer
            call.cancel()

    async def _write(self, call: Any) -> None:
        while True:
            await self._has_commands.wait()
            self._has_commands.clear()
            while (request := self._streams.take_request()) is not None:
                await call.write(request)


def _ended() -> aio.AioRpcError:
    return rpc_error(StatusCode.UNAVAILABLE, "the relay has ended")
