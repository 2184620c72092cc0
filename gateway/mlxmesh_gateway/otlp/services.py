"""OTLP's services on the gateway's port, to which every process of the mesh exports."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
from google.protobuf.message import Message

from mlxmesh_gateway.otlp.intake import Accepted, accept
from mlxmesh_gateway.otlp.messages import SERVICES, OtlpService
from mlxmesh_shared.rpc.caller import peer_host
from mlxmesh_shared.rpc.requests import FairLock, RequestParser, finish_in_thread
from mlxmesh_shared.rules import Validator
from mlxmesh_shared.telemetry.sink import TelemetrySink

_MESSAGE = "too large, or not as OTLP has them; docs/operations.md lists the bounds"
# Larger exports are checked beside the event loop.
_LARGE_BYTES = 16 * 1024


class _Exports:
    """Exports of all senders, one after another: telemetry takes at most half of the loop."""

    def __init__(self, on_rejected: Callable[[int], None]) -> None:
        self._on_rejected = on_rejected
        self._parser = RequestParser(Validator([]))
        self._lock = FairLock()

    async def take(
        self,
        service: OtlpService,
        pass_on: Callable[[Any], Awaitable[None]],
        encoded: bytes,
        sender: str,
    ) -> Message:
        """The response. Raises: InvalidArgument, MalformedMessage."""
        async with self._lock.held_by(sender):
            accepted = await self._accepted(service, encoded)
            for each in accepted.slices:
                await pass_on(each)
                await asyncio.sleep(0)
        if accepted.rejected:
            self._on_rejected(accepted.rejected)
        return service.answer(accepted.rejected, _MESSAGE if accepted.rejected else "")

    async def _accepted(self, service: OtlpService, encoded: bytes) -> Accepted:
        def read() -> Accepted:
            return accept(self._parser.parse_now(service.request, encoded))

        return read() if len(encoded) <= _LARGE_BYTES else await finish_in_thread(read)


def otlp_handlers(
    sink: TelemetrySink, on_rejected: Callable[[int], None] = lambda _: None
) -> list[grpc.GenericRpcHandler]:
    """Handlers of the three services, all feeding one sink; `on_rejected` is called with the number
    of rejected items.
    """
    exports = _Exports(on_rejected)
    take = {"traces": sink.traces, "metrics": sink.metrics, "logs": sink.logs}
    return [_handler(service, exports, take[signal]) for signal, service in SERVICES.items()]


def _handler(
    service: OtlpService, exports: _Exports, pass_on: Callable[[Any], Awaitable[None]]
) -> grpc.GenericRpcHandler:
    async def export(encoded: bytes, context: Any) -> Any:
        return await exports.take(service, pass_on, encoded, peer_host(context.peer()))

    # Without a deserializer gRPC passes the bytes as received.
    serialize: Any = service.response.SerializeToString
    method = cast("Any", grpc).unary_unary_rpc_method_handler(export, response_serializer=serialize)
    return grpc.method_handlers_generic_handler(service.name, {"Export": method})
