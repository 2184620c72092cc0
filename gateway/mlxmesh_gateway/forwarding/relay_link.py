"""The relay to one generation instance: one call that carries all its streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from google.protobuf.message import DecodeError
from grpc import StatusCode, aio

from mlxmesh.generation.v1.generation_pb2 import RelayRequest, RelayResponse
from mlxmesh_gateway.forwarding.multiplexer import Multiplexer, RelayedStream, rpc_error
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.channels import cancel_requests

RELAY = "/mlxmesh.generation.v1.GenerationService/Relay"
# Then new streams begin on another relay, and so on a connection with the newest certificates.
MAX_AGE_S = 600.0

_log = logging.getLogger(__name__)


class RelayLink:
    """Opens a relay with the first stream, and with the first one after its end."""

    def __init__(self, channel: aio.Channel, *, max_age_s: float = MAX_AGE_S) -> None:
        self._channel = channel
        self._max_age_s = max_age_s
        self._open: set[_Relay] = set()
        """The current relay, and older ones that still have streams."""
        self._current: _Relay | None = None
        self._renew_s = 0.0

    def start(self, path: str, request: bytes, **options: Any) -> RelayedStream:
        """A stream of a carried method, with the options of a gRPC call."""
        now_s = asyncio.get_running_loop().time()
        if self._current is not None and now_s >= self._renew_s:
            self._current.retire()
            self._current = None
        if self._current is None:
            self._current = _Relay(self._channel, self._on_ended)
            self._open.add(self._current)
            self._renew_s = now_s + self._max_age_s
        return self._current.streams.open(path, request, **options)

    async def close(self) -> None:
        """Ends the relays and their streams."""
        for relay in tuple(self._open):
            await relay.close()

    def _on_ended(self, relay: _Relay) -> None:
        self._open.discard(relay)
        if self._current is relay:
            self._current = None


class _Relay:
    """One call of `Relay`."""

    def __init__(self, channel: aio.Channel, on_ended: Callable[[_Relay], None]) -> None:
        self._channel = channel
        self._on_ended = on_ended
        self._wake = asyncio.Event()
        self._retired = False
        self.streams = Multiplexer(self._wake.set)
        self._running = asyncio.create_task(self._run(), name="relay")

    def retire(self) -> None:
        """Gets no more streams: it ends after its last one."""
        self._retired = True
        self._wake.set()

    async def close(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._end(_ended())  # a task that had not begun has ended nothing

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
            self._end(error)

    def _end(self, error: aio.AioRpcError) -> None:
        self._on_ended(self)
        self.streams.end(error)

    async def _converse(self) -> None:
        channel: Any = self._channel
        call = channel.stream_stream(RELAY, request_serializer=RelayRequest.SerializeToString)()
        writer = asyncio.create_task(self._write(call))
        try:
            while (encoded := await call.read()) is not aio.EOF:
                self.streams.receive(RelayResponse.FromString(encoded))
        finally:
            writer.cancel()
            # Reading the relay reports how it ended.
            with suppress(MeshError, asyncio.CancelledError):
                await writer
            call.cancel()

    async def _write(self, call: Any) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while (request := self.streams.take_request()) is not None:
                await call.write(request)
            if self._retired and self.streams.idle:
                await call.done_writing()
                return


def _ended() -> aio.AioRpcError:
    return rpc_error(StatusCode.UNAVAILABLE, "the relay has ended")
