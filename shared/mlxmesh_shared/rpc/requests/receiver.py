"""Receives what a handler is called with: one checked request, or a stream of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from google.protobuf.message import Message
from grpc import aio

from mlxmesh_shared.rpc.methods import is_infrastructure
from mlxmesh_shared.rpc.requests.parser import SMALL_BYTES, HeldBytes, RequestParser, check_size
from mlxmesh_shared.rpc.requests.reader import RequestReader

MAX_INFRASTRUCTURE_BYTES = 64 * 1024
"""The largest request of health and reflection, which contains only a name or two."""

Context = aio.ServicerContext[Any, Any]
Held = list[tuple[str, int]]
"""The caller and size of each large request of a call, to be released when the call ends."""
Receive = Callable[[Any, Context, Held], Awaitable[Any]]
"""Makes the argument of a handler from the stream of encoded messages."""


class Receiver:
    """Receives the requests of one server."""

    def __init__(
        self,
        parser: RequestParser,
        *,
        max_message_bytes: int,
        max_held_bytes: int,
        caller: Callable[[Context], str],
    ) -> None:
        """caller: the name that limits count for a call."""
        self._parser = parser
        self._max_message_bytes = max_message_bytes
        self._reader = RequestReader()
        self._held_bytes = HeldBytes(max_held_bytes)
        self._caller = caller

    def of(self, method: str, handler: Any) -> Receive:
        """The function that receives for one method; a handler without deserializer gets bytes."""
        # gRPC gets no deserializer: it would turn its errors into UNKNOWN with their raw text.
        cls = _message_class(handler.request_deserializer)
        max_bytes = self._max_message_bytes
        if is_infrastructure(method):
            max_bytes = min(max_bytes, MAX_INFRASTRUCTURE_BYTES)

        async def parsed(encoded: bytes, context: Context) -> Any:
            check_size(encoded, max_bytes)
            if cls is None:
                return encoded
            return await self._parser.parse(cls, encoded, partial(self._caller, context))

        async def messages(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[Any]:
            async for encoded in requests:
                yield await parsed(encoded, context)

        async def stream(requests: Any, context: Context, _held: Held) -> Any:
            return messages(requests, context)

        async def one(_requests: Any, context: Context, held: Held) -> Any:
            encoded = await self._reader.read(context)
            if len(encoded) > SMALL_BYTES:
                caller = self._caller(context)
                self._held_bytes.acquire(caller, len(encoded))
                held.append((caller, len(encoded)))
            return await parsed(encoded, context)

        return stream if handler.request_streaming else one

    def release(self, held: Held) -> None:
        """Stops counting the requests of a call that has ended."""
        for caller, size_bytes in held:
            self._held_bytes.release(caller, size_bytes)


def _message_class(deserialize: Any) -> type[Message] | None:
    """The message class of a FromString method; None for a handler of bytes."""
    if deserialize is None:
        return None
    owner = getattr(deserialize, "__self__", None)
    if isinstance(owner, type) and issubclass(owner, Message):
        return owner
    raise TypeError("the deserializer of a request must be the FromString of its message")
