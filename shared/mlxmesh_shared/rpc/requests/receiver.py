"""What a handler gets of a call: its one request, or the stream of them, checked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message
from grpc import aio

from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.rpc.caller import caller_of, host_of
from mlxmesh_shared.rpc.methods import is_infrastructure
from mlxmesh_shared.rpc.requests.arrivals import Arrivals
from mlxmesh_shared.rpc.requests.parser import SMALL_BYTES, HeldBytes, RequestParser, check_size

MAX_INFRASTRUCTURE_BYTES = 64 * 1024
"""Of a request of health or reflection: they have a name or two."""

Context = aio.ServicerContext[Any, Any]
Held = list[tuple[str, int]]
"""Whose bytes a call holds, and how many; empty for a small request."""
Receive = Callable[[Any, Context, Held], Awaitable[Any]]
"""From the stream of encoded messages, what the handler gets."""


class Receiver:
    """Receives the requests of one server."""

    def __init__(
        self, parser: RequestParser, *, max_message_bytes: int, max_held_bytes: int
    ) -> None:
        self._parser = parser
        self._max_message_bytes = max_message_bytes
        self._arrivals = Arrivals()
        self._held_bytes = HeldBytes(max_held_bytes)

    def of(self, method: str, handler: Any) -> Receive:
        """For one method; a handler without deserializer gets bytes."""
        # No deserializer for gRPC: what one raises there becomes UNKNOWN with the raw text.
        cls = _message_class(handler.request_deserializer)
        max_bytes = self._max_message_bytes
        if is_infrastructure(method):
            max_bytes = min(max_bytes, MAX_INFRASTRUCTURE_BYTES)

        async def parsed(encoded: bytes, context: Context) -> Any:
            check_size(encoded, max_bytes)
            if cls is None:
                return encoded
            return await self._parser.parse(cls, encoded, partial(_caller_of, context))

        async def messages(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            async for encoded in requests:
                yield await parsed(encoded, context)

        async def stream(requests: Any, context: Context, _held: Held) -> Any:
            return messages(requests, context)

        async def one(_requests: Any, context: Context, held: Held) -> Any:
            encoded = await self._arrivals.read(context)
            if len(encoded) > SMALL_BYTES:
                caller = _caller_of(context)
                self._held_bytes.take(caller, len(encoded))
                held.append((caller, len(encoded)))
            return await parsed(encoded, context)

        return stream if handler.request_streaming else one

    def give_back(self, held: Held) -> None:
        """The call has ended."""
        for caller, size_bytes in held:
            self._held_bytes.give_back(caller, size_bytes)


def _message_class(deserialize: Any) -> type[Message] | None:
    """The type that FromString is of; None for a handler that takes bytes."""
    if deserialize is None:
        return None
    owner = getattr(deserialize, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, Message):
        return owner
    raise TypeError("requests are parsed by a message's own FromString")


def _caller_of(context: Context) -> str:
    """Who takes the turns; whoever has no legal name takes those of its host."""
    try:
        return caller_of(context)
    except InvalidArgument:
        return host_of(context.peer())
