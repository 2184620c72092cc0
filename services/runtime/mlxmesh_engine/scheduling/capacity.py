"""How many sequences the engine admits, and how much memory their KV cache may take. Pure."""

from dataclasses import dataclass
from typing import Protocol

from mlxmesh_shared.errors import EngineDraining, QueueFull
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter

# Of the memory that is free once the weights are loaded; the rest is for computation and others.
_KV_FRACTION = 0.5


@dataclass(frozen=True, slots=True)
class KvMemory:
    """KV cache memory: of one token, and the limit for all running sequences; 0: unknown."""

    token_bytes: int
    capacity_bytes: int

    @property
    def capacity_tokens(self) -> int | None:
        """None if unknown: then only the number of sequences is bounded."""
        return self.capacity_bytes // self.token_bytes if self.token_bytes else None


UNKNOWN_KV = KvMemory(token_bytes=0, capacity_bytes=0)


def kv_memory(
    *, token_bytes: int, context_tokens: int, available_bytes: int, configured_bytes: int | None
) -> KvMemory:
    """The configured limit, else half of the available memory but at least one full context."""
    if configured_bytes is not None:
        return KvMemory(token_bytes, configured_bytes)
    one_context = token_bytes * context_tokens
    return KvMemory(token_bytes, max(one_context, int(available_bytes * _KV_FRACTION)))


class Admitted(Protocol):
    """What is admitted: a sequence, or a call that encodes."""

    @property
    def caller(self) -> str: ...
    @property
    def background(self) -> bool: ...
    @property
    def max_total_tokens(self) -> int:
        """The tokens that it may need in the KV cache."""
        ...


class _Room:
    """The sequences of one kind, and their memory."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self.limiter = ConcurrencyLimiter(max_running + max_waiting, servers=max_running)
        self.tokens = 0

    def acquire(self, request: Admitted, max_tokens: float | None, now_s: float) -> None:
        """Raises: QueueFull."""
        if max_tokens is not None and self.tokens + request.max_total_tokens > max_tokens:
            raise QueueFull(
                "the admitted sequences may need the whole KV cache memory; try again later, or "
                "with a lower max_tokens",
                retry_delay_s=self.limiter.refuse(request.caller, now_s),
            )
        if (delay_s := self.limiter.try_acquire(request.caller, now_s)) is not None:
            raise QueueFull(
                f"the engine has admitted {self.limiter.held} requests and has no slot for "
                "another one of this caller; try again later",
                retry_delay_s=delay_s,
            )
        self.tokens += request.max_total_tokens

    def release(self, request: Admitted, now_s: float) -> None:
        self.tokens -= request.max_total_tokens
        self.limiter.release(request.caller, now_s)


class Admission:
    """Counts the admitted sequences and their memory, and refuses what exceeds the limits.

    The waiting queue is as long in tokens as in sequences: if it may hold n times the running
    sequences, it may need n times the memory. Background sequences have the same limits once more,
    so that they never take the place of others.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._foreground = _Room(max_running=max_running, max_waiting=max_waiting)
        self._background = _Room(max_running=max_running, max_waiting=max_waiting)
        self._queue_factor = 1 + max_waiting / max_running
        self._max_tokens: float | None = None
        self._draining = False

    @property
    def admitted(self) -> int:
        return self._foreground.limiter.held + self._background.limiter.held

    @property
    def draining(self) -> bool:
        return self._draining

    def set_draining(self) -> None:
        self._draining = True

    def set_kv_capacity(self, tokens: int | None) -> None:
        """Sets the limit of the running sequences; None for no limit."""
        self._max_tokens = None if tokens is None else tokens * self._queue_factor

    def acquire(self, request: Admitted, now_s: float) -> None:
        """Raises: EngineDraining, QueueFull (with the estimated time until a slot is free)."""
        if self._draining:
            raise EngineDraining("the engine is shutting down; send this to another replica")
        self._room(request).acquire(request, self._max_tokens, now_s)

    def replace(self, request: Admitted, other: Admitted) -> None:
        """An admitted request became another one; it is not refused any more."""
        self._room(request).tokens += other.max_total_tokens - request.max_total_tokens

    def release(self, request: Admitted, now_s: float) -> None:
        """A sequence ended; retry delays are estimated from the rate of releases."""
        self._room(request).release(request, now_s)

    def _room(self, request: Admitted) -> _Room:
        return self._background if request.background else self._foreground
