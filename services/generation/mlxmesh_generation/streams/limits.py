"""Limits on running generations and on unread output."""

import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from mlxmesh_shared.errors import MessageTooLarge, TooManyRequests
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter


@dataclass(eq=False)
class UnreadOutput:
    """The unread output of one generation."""

    caller: str
    give_up: Callable[[], None]
    """Ends the generation and discards its unread output."""
    size_bytes: int = 0


class UnreadLimit:
    """Beyond the limit, the caller with the most unread output loses its largest generation.

    So a caller with stalled readers does not affect the readers of others.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: dict[str, set[UnreadOutput]] = {}
        self._bytes: Counter[str] = Counter()
        self.total_bytes = 0

    def changed(self, output: UnreadOutput, by_bytes: int) -> None:
        """Records that unread output grew, or shrank."""
        self._count(output, by_bytes)
        while self.total_bytes > self._max_bytes and self._give_up_largest():
            pass

    def _count(self, output: UnreadOutput, by_bytes: int) -> None:
        output.size_bytes += by_bytes
        self.total_bytes += by_bytes
        self._bytes[output.caller] += by_bytes
        waiting = self._waiting.setdefault(output.caller, set())
        if output.size_bytes:
            waiting.add(output)
            return
        waiting.discard(output)
        if not waiting:
            del self._waiting[output.caller], self._bytes[output.caller]

    def _give_up_largest(self) -> bool:
        """Whether that freed memory."""
        before = self.total_bytes
        caller = max(self._waiting, key=lambda name: self._bytes[name])
        max(self._waiting[caller], key=lambda output: output.size_bytes).give_up()
        return self.total_bytes < before


class GenerationLimits:
    """Limits how many requests are in progress, and their bytes.

    A request counts from before tokenization until its generation ends or its count is returned.
    Those of the flex tier have the same limits once more, so that they never take the place of
    others.
    """

    def __init__(self, *, max_generations: int, max_held_bytes: int) -> None:
        self._standard = _Room(max_generations, max_held_bytes)
        self._flex = _Room(max_generations, max_held_bytes)

    @contextmanager
    def holding(self, caller: str, message_bytes: int, *, flex: bool = False) -> Generator[None]:
        """Raises: TooManyRequests (with a retry delay), MessageTooLarge."""
        room = self._flex if flex else self._standard
        room.acquire(caller, message_bytes)
        try:
            yield
        finally:
            room.release(caller, message_bytes)


class _Room:
    """The requests of one tier."""

    def __init__(self, max_generations: int, max_held_bytes: int) -> None:
        self._limiter = ConcurrencyLimiter(max_generations)
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0

    def release(self, caller: str, message_bytes: int) -> None:
        self._held_bytes -= message_bytes
        self._limiter.release(caller, time.monotonic())

    def acquire(self, caller: str, message_bytes: int) -> None:
        """Raises: TooManyRequests, MessageTooLarge."""
        now_s = time.monotonic()
        if message_bytes > self._max_held_bytes:
            raise MessageTooLarge(
                f"the request has {message_bytes} bytes; all requests together may have "
                f"{self._max_held_bytes}; send a shorter prompt"
            )
        if self._held_bytes + message_bytes > self._max_held_bytes:
            delay_s: float | None = self._limiter.refuse(caller, now_s)
        else:
            delay_s = self._limiter.try_acquire(caller, now_s)
        if delay_s is not None:
            raise TooManyRequests(
                f"{self._limiter.held} requests are held here and there is no room for more of "
                "this caller's; try again later",
                retry_delay_s=delay_s,
            )
        self._held_bytes += message_bytes
