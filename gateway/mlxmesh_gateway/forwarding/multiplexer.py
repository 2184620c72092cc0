"""The streams of one relay: what arrives for each, and the commands that the relay has yet to send.

Pure: `RelayLink` transports the messages.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from grpc import StatusCode, aio

from mlxmesh.generation.v1.generation_pb2 import (
    OpenStream,
    RelayRequest,
    RelayResponse,
    StreamCredit,
    StreamOutput,
)
from mlxmesh_shared.rpc.error_status import from_rpc_error, to_rpc_error

_SERVICE = "/mlxmesh.generation.v1.GenerationService"
CARRIED = {
    f"{_SERVICE}/Generate": "generate",
    f"{_SERVICE}/AttachGeneration": "attach",
    f"{_SERVICE}/ResumeGeneration": "resume",
}
"""The methods that a relay carries, by the field of OpenStream that names each."""
MAX_REQUEST_BYTES = 64 * 1024
"""A larger request needs a call of its own: it would delay those of others."""
# Unread messages of one stream here. Output that is faster than this process or a client then waits
# in generation, which merges it into fewer, larger messages.
WINDOW_MESSAGES = 16
# Once a stream has used this much of its window, all streams get credit: one message has the credit
# for several steps of all of them.
CREDIT_AFTER = WINDOW_MESSAGES * 3 // 4
# So that a burst of requests is parsed at once, not on a thread, and lets running streams through.
_MAX_OPENED_BYTES = 32 * 1024
_MAX_OPENED = 8
_MAX_CREDITS = 4096
_MAX_CANCELS = 4096


class RelayedStream:
    """One stream: it is read as the gRPC call is that it replaces."""

    def __init__(self, streams: Multiplexer, stream_id: int, timeout_s: float | None) -> None:
        self._streams = streams
        self._stream_id = stream_id
        self._messages: deque[bytes] = deque()
        self._unused_credit = WINDOW_MESSAGES
        self._consumed = 0
        self._ended = False
        self._error: aio.AioRpcError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(timeout_s, self._expire)

    async def read(self) -> bytes | Any:
        """The next message; aio.EOF after the last one. Raises: the error that ended it."""
        while not self._messages:
            if self._error is not None:
                raise from_rpc_error(self._error) from self._error
            if self._ended:
                return aio.EOF
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self._consumed += 1
        if self._consumed == CREDIT_AFTER and not self._ended:
            self._streams.give_credit()
        return self._messages.popleft()

    def cancel(self) -> None:
        """Ends it for its reader; a no-op once it has ended."""
        self._give_up(StatusCode.CANCELLED, "the call was cancelled")

    def take_credit(self) -> int:
        """How many messages it has read that the instance has no credit for yet."""
        messages, self._consumed = self._consumed, 0
        self._unused_credit += messages
        return messages

    def receive(self, output: StreamOutput) -> None:
        """Takes what the instance sent."""
        if message := output.message:
            self._unused_credit -= 1
            if self._unused_credit < 0:
                self._give_up(StatusCode.INTERNAL, "the instance sent more than it may")
                return
            self._messages.append(message)
        if output.ended:
            self._streams.forget(self._stream_id)
            self.end(to_rpc_error(output.failure) if output.HasField("failure") else None)
        self._wake()

    def end(self, error: aio.AioRpcError | None) -> None:
        """Ends it after the messages that wait to be read."""
        if self._ended:
            return
        self._ended, self._error = True, error
        if self._timer is not None:
            self._timer.cancel()
        self._wake()

    def _expire(self) -> None:
        self._give_up(StatusCode.DEADLINE_EXCEEDED, "the deadline passed")

    def _give_up(self, code: StatusCode, message: str) -> None:
        if not self._ended:
            self._streams.cancel(self._stream_id)
            self.end(rpc_error(code, message))

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class Multiplexer:
    """The streams by id, and the commands for the instance in the order of their messages."""

    def __init__(self, on_command: Callable[[], None]) -> None:
        """`on_command` is called when there is something to send, or a stream has ended."""
        self._on_command = on_command
        self._ids = itertools.count(1)
        self._streams: dict[int, RelayedStream] = {}
        self._opening: dict[int, OpenStream] = {}
        self._credit_is_due = False
        self._cancelled: list[int] = []

    @property
    def idle(self) -> bool:
        """Whether no stream is running."""
        return not self._streams

    def open(
        self,
        path: str,
        request: bytes,
        *,
        timeout: float | None = None,
        metadata: Iterable[tuple[str, str]] = (),
    ) -> RelayedStream:
        """A new stream of a carried method, with the options of a gRPC call."""
        stream_id = next(self._ids)
        timeout_ms = None if timeout is None else max(1, round(timeout * 1000))
        self._opening[stream_id] = OpenStream(
            stream_id=stream_id,
            metadata=dict(metadata),
            timeout_ms=timeout_ms,
            credit=WINDOW_MESSAGES,
            **{CARRIED[path]: request},
        )
        stream = self._streams[stream_id] = RelayedStream(self, stream_id, timeout)
        self._on_command()
        return stream

    def receive(self, response: RelayResponse) -> None:
        """Hands each output to its stream; those of cancelled streams are dropped."""
        for output in response.outputs:
            if (stream := self._streams.get(output.stream_id)) is not None:
                stream.receive(output)

    def end(self, error: aio.AioRpcError) -> None:
        """Ends every stream: the relay has ended."""
        streams, self._streams = self._streams, {}
        self._opening.clear()
        self._credit_is_due = False
        self._cancelled.clear()
        for stream in streams.values():
            stream.end(error)

    def take_request(self) -> RelayRequest | None:
        """The next commands to send; None when there are none."""
        request = RelayRequest(cancel_stream_ids=self._cancelled[:_MAX_CANCELS])
        del self._cancelled[:_MAX_CANCELS]
        if self._credit_is_due:
            request.credit.extend(itertools.islice(self._credits(), _MAX_CREDITS))
            self._credit_is_due = len(request.credit) == _MAX_CREDITS
        size_bytes = 0
        while self._opening and len(request.open) < _MAX_OPENED and size_bytes < _MAX_OPENED_BYTES:
            opened = self._opening.pop(next(iter(self._opening)))
            request.open.append(opened)
            size_bytes += opened.ByteSize()
        return request if request.open or request.credit or request.cancel_stream_ids else None

    def _credits(self) -> Iterator[StreamCredit]:
        # A new stream's id may not be known to the instance yet; it has read nothing either.
        for stream_id, stream in self._streams.items():
            if messages := stream.take_credit():
                yield StreamCredit(stream_id=stream_id, messages=messages)

    # By the streams.

    def give_credit(self) -> None:
        self._credit_is_due = True
        self._on_command()

    def cancel(self, stream_id: int) -> None:
        if self._opening.pop(stream_id, None) is None:
            self._cancelled.append(stream_id)
        self.forget(stream_id)

    def forget(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)
        self._on_command()


def rpc_error(code: StatusCode, message: str) -> aio.AioRpcError:
    """An error as gRPC itself has them: without details of a service."""
    return aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), details=message)
