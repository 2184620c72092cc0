"""How many sequences the engine admits, and how much memory their KV cache may take. Pure."""

from dataclasses import dataclass

from mlxmesh_engine.scheduling.request import SequenceRequest
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


class Admission:
    """Counts the admitted sequences and their memory, and refuses what exceeds the limits.

    The waiting queue is as long in tokens as in sequences: if it may hold n times the running
    sequences, it may need n times the memory.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._limiter = ConcurrencyLimiter(max_running + max_waiting, servers=max_running)
        self._queue_factor = 1 + max_waiting / max_running
        self._max_tokens: float | None = None
        self._admitted_tokens = 0
        self._draining = False

    @property
    def admitted(self) -> int:
        return self._limiter.held

    @property
    def draining(self) -> bool:
        return self._draining

    def set_draining(self) -> None:
        self._draining = True

    def set_kv_capacity(self, tokens: int | None) -> None:
        """Sets the limit of the running sequences; None for no limit."""
        self._max_tokens = None if tokens is None else tokens * self._queue_factor

    def acquire(self, request: SequenceRequest, now_s: float) -> None:
        """Raises: EngineDraining, QueueFull (with the estimated time until a slot is free)."""
        if self._draining:
            raise EngineDraining("the engine is shutting down; send this to another replica")
        if self._exceeds_kv_capacity(request):
            raise QueueFull(
                "the admitted sequences may need the whole KV cache memory; try again later, or "
                "with a lower max_tokens",
                retry_delay_s=self._limiter.refuse(request.caller, now_s),
            )
        if (delay_s := self._limiter.try_acquire(request.caller, now_s)) is not None:
            raise QueueFull(
                f"the engine has admitted {self.admitted} sequences and has no slot for another "
                "one of this caller; try again later",
                retry_delay_s=delay_s,
            )
        self._admitted_tokens += request.max_total_tokens

    def release(self, request: SequenceRequest, now_s: float) -> None:
        """A sequence ended; retry delays are estimated from the rate of releases."""
        self._admitted_tokens -= request.max_total_tokens
        self._limiter.release(request.caller, now_s)

    def _exceeds_kv_capacity(self, request: SequenceRequest) -> bool:
        limit = self._max_tokens
        return limit is not None and self._admitted_tokens + request.max_total_tokens > limit
