"""Work on a thread that counts as long as it runs: a thread cannot be stopped from outside."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from mlxmesh_shared.errors import MalformedMessage, MessageTooLarge, TooManyRequests
from mlxmesh_shared.rules import Validator, WireLimits
from mlxmesh_shared.rules.wire import MAX_UNCOUNTED_BYTES

P = ParamSpec("P")
T = TypeVar("T")


async def finish_in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As asyncio.to_thread, but a cancellation is raised only once the work has ended.

    Else who cancels calls could have any number of threads at work, and as many requests in memory.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait({running})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # seen, so that nobody logs it
        raise cancelled
    return running.result()


MAX_REST_S = 0.5


@dataclass
class _Line:
    """Those of one caller: only the first of them waits for the turn that all share."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class Turns:
    """Callers take turns, whatever the number of requests of each.

    Since the next turn begins only after the rest, such work takes at most half of the event loop.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._lines: dict[str, _Line] = {}

    @asynccontextmanager
    async def of(self, caller: str) -> AsyncGenerator[None]:
        """Runs the body when it is this caller's turn."""
        line = self._lines.setdefault(caller, _Line())
        line.waiting += 1
        try:
            async with line.lock:
                await self._turn.acquire()
                started_s = time.monotonic()
                try:
                    yield
                finally:
                    rest_s = min(MAX_REST_S, time.monotonic() - started_s)
                    asyncio.get_running_loop().call_later(rest_s, self._turn.release)
        finally:
            line.waiting -= 1
            if not line.waiting:
                del self._lines[caller]


SMALL_BYTES = 64 * 1024
"""Requests up to this size do not count: the number of calls bounds them."""
_RETRY_DELAY_S = 1.0


class HeldBytes:
    """A number of bytes for all callers together, half of it for each."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._by_caller: Counter[str] = Counter()
        self.held_bytes = 0

    def take(self, caller: str, size_bytes: int) -> None:
        """Counts a large request. Raises: TooManyRequests where there is no room for it."""
        mine = self._by_caller[caller] + size_bytes
        if self.held_bytes + size_bytes > self._limit_bytes or mine > self._limit_bytes // 2:
            raise TooManyRequests(
                f"requests that are under way here hold {self.held_bytes} bytes and there is no"
                f" room for {size_bytes} more of this caller's; try again later",
                retry_delay_s=_RETRY_DELAY_S,
            )
        self._by_caller[caller] = mine
        self.held_bytes += size_bytes

    def give_back(self, caller: str, size_bytes: int) -> None:
        """The call has ended."""
        self.held_bytes -= size_bytes
        self._by_caller[caller] -= size_bytes
        if not self._by_caller[caller]:
            del self._by_caller[caller]


M = TypeVar("M", bound=Message)


class RequestParser:
    """Parses requests for one server; whatever is wrong with one is an error that says so."""

    def __init__(self, validator: Validator, *, limits: WireLimits | None = None) -> None:
        self._validator = validator
        self._limits = limits or WireLimits()
        self._turns = Turns()

    async def parse(self, cls: type[M], encoded: bytes, caller: Callable[[], str]) -> M:
        """The message. `caller` names who takes the turn, which only a large one needs.

        Raises: MalformedMessage, InvalidArgument, FeatureNotSupported.
        """
        if self._is_light(cls, encoded):
            return self._parsed(cls, encoded)
        async with self._turns.of(caller()):
            # The interpreter is shared with the event loop, but the count and the rules let go of
            # it every few milliseconds, and what is parsed after the count takes little time.
            return await finish_in_thread(self.parse_now, cls, encoded)

    def _is_light(self, cls: type[Message], encoded: bytes) -> bool:
        if len(encoded) <= MAX_UNCOUNTED_BYTES:
            return True
        return len(encoded) <= SMALL_BYTES and self._limits.is_light(_descriptor(cls), encoded)

    def parse_now(self, cls: type[M], encoded: bytes) -> M:
        """The message, of any size, at once. Raises: as `parse`."""
        self._limits.check(_descriptor(cls), encoded)
        return self._parsed(cls, encoded)

    def _parsed(self, cls: type[M], encoded: bytes) -> M:
        try:
            message = cls.FromString(encoded)
        except (DecodeError, ValueError):
            # Its text may quote the message.
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
