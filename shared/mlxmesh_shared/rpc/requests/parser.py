"""Parses requests within limits: large ones on a thread, one caller after another, and only so
many bytes at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from mlxmesh_shared.errors import MalformedMessage, MessageTooLarge, TooManyRequests
from mlxmesh_shared.host.allocator import return_free_memory
from mlxmesh_shared.rules import Validator, WireLimits
from mlxmesh_shared.rules.wire import MAX_UNCOUNTED_BYTES

P = ParamSpec("P")
T = TypeVar("T")


async def finish_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Like asyncio.to_thread, but raises a cancellation only after the work has ended.

    A thread cannot be stopped. If the call returned before it, a client that cancels its calls
    could keep any number of threads busy, and as many requests in memory.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    try:
        while not running.done():
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            running.exception()  # retrieved, so that asyncio does not log it
            raise cancelled
        return running.result()
    finally:
        # The error's traceback refers to this frame: if the frame referred to the error, the
        # request would stay in memory until the next garbage collection.
        del running, cancelled


MAX_PAUSE_S = 0.5


@dataclass
class _CallerQueue:
    """The requests of one caller: only the first of them waits for the lock that all share."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class FairLock:
    """A lock that callers acquire in turn, whatever the number of requests of each.

    After each use it stays locked for as long as the use took, so that the work under it takes at
    most half of the event loop.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._queues: dict[str, _CallerQueue] = {}

    @asynccontextmanager
    async def held_by(self, caller: str) -> AsyncGenerator[None]:
        """Acquires the lock for a caller, and releases it after the body and the pause."""
        queue = self._queues.setdefault(caller, _CallerQueue())
        queue.waiting += 1
        try:
            async with queue.lock:
                await self._lock.acquire()
                started_s = time.monotonic()
                try:
                    yield
                finally:
                    pause_s = min(MAX_PAUSE_S, time.monotonic() - started_s)
                    asyncio.get_running_loop().call_later(pause_s, self._lock.release)
        finally:
            queue.waiting -= 1
            if not queue.waiting:
                del self._queues[caller]


SMALL_BYTES = 64 * 1024
"""Requests up to this size are not counted: the limit of concurrent calls bounds them."""
_RETRY_DELAY_S = 1.0

_BURST_BYTES = 64 * 2**20
"""Requests that held as much at once leave memory behind that is worth returning."""
_CALL_ENDS_S = 0.5
"""How long a call may take to free its request once it is no longer counted."""


class HeldBytes:
    """Limits the bytes of the requests in progress: a total, and half of it for each caller."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._by_caller: Counter[str] = Counter()
        self.held_bytes = 0
        self._peak_bytes = 0  # since nothing was held

    def acquire(self, caller: str, size_bytes: int) -> None:
        """Counts a large request. Raises: TooManyRequests when it would exceed a limit."""
        mine = self._by_caller[caller] + size_bytes
        if self.held_bytes + size_bytes > self._limit_bytes or mine > self._limit_bytes // 2:
            raise TooManyRequests(
                f"the requests in progress here have {self.held_bytes} bytes, and {size_bytes} more"
                " of this caller would exceed the limit; try again later",
                retry_delay_s=_RETRY_DELAY_S,
            )
        self._by_caller[caller] = mine
        self.held_bytes += size_bytes
        self._peak_bytes = max(self._peak_bytes, self.held_bytes)

    def release(self, caller: str, size_bytes: int) -> None:
        """Stops counting a request whose call has ended; returns the memory after a burst."""
        self.held_bytes -= size_bytes
        self._by_caller[caller] -= size_bytes
        if not self._by_caller[caller]:
            del self._by_caller[caller]
        if not self.held_bytes:
            if self._peak_bytes >= _BURST_BYTES:
                after_the_call = threading.Timer(_CALL_ENDS_S, return_free_memory)
                after_the_call.daemon = True
                after_the_call.start()
            self._peak_bytes = 0


M = TypeVar("M", bound=Message)


class RequestParser:
    """Parses and validates the requests of one server."""

    def __init__(self, validator: Validator, *, limits: WireLimits | None = None) -> None:
        self._validator = validator
        self._limits = limits or WireLimits()
        self._lock = FairLock()

    async def parse(self, cls: type[M], encoded: bytes, caller: Callable[[], str]) -> M:
        """The message. `caller` names the caller; it is called only for a large message, whose
        parsing waits for its turn.

        Raises: MalformedMessage, InvalidArgument, FeatureNotSupported.
        """
        if self._is_light(cls, encoded):
            return self._parsed(cls, encoded)
        async with self._lock.held_by(caller()):
            # The thread shares the interpreter lock with the event loop. Counting and validating
            # release it every few milliseconds; parsing a message of legal size is short.
            return await finish_in_thread(self.parse_now, cls, encoded)

    def _is_light(self, cls: type[Message], encoded: bytes) -> bool:
        if len(encoded) <= MAX_UNCOUNTED_BYTES:
            return True
        return len(encoded) <= SMALL_BYTES and self._limits.is_light(_descriptor(cls), encoded)

    def parse_now(self, cls: type[M], encoded: bytes) -> M:
        """Parses a message of any size on this thread. Raises: as `parse`."""
        self._limits.check(_descriptor(cls), encoded)
        return self._parsed(cls, encoded)

    def _parsed(self, cls: type[M], encoded: bytes) -> M:
        try:
            message = cls.FromString(encoded)
        except (DecodeError, ValueError):
            # The text of the error may quote the message.
            raise MalformedMessage(
                f"the message is not a valid {cls.DESCRIPTOR.full_name}: malformed protobuf"
            ) from None
        self._validator.check(message)
        return message


def _descriptor(cls: type[Message]) -> Descriptor:
    return cast("Descriptor", cls.DESCRIPTOR)


def check_size(encoded: bytes, max_bytes: int) -> None:
    """Raises: MessageTooLarge."""
    if len(encoded) > max_bytes:
        raise MessageTooLarge(
            f"the message has {len(encoded)} bytes; at most {max_bytes} are accepted"
        )
