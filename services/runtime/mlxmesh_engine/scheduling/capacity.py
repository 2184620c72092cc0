"""How many sequences the engine takes, and how much memory their keys and values may take. Pure."""

from dataclasses import dataclass

from mlxmesh_engine.scheduling.request import SequenceRequest
from mlxmesh_shared.errors import EngineDraining, QueueFull
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter

# Of what is free once the weights are loaded; the rest is for the computation and for others.
_PART_OF_AVAILABLE = 0.5


@dataclass(frozen=True, slots=True)
class KvMemory:
    """What one token takes, and what all sequences that run may take together; 0: not known."""

    token_bytes: int
    capacity_bytes: int

    @property
    def capacity_tokens(self) -> int | None:
        """None when it is not known: then only the number of sequences is bounded."""
        return self.capacity_bytes // self.token_bytes if self.token_bytes else None


UNKNOWN = KvMemory(token_bytes=0, capacity_bytes=0)


def kv_memory(
    *, token_bytes: int, context_tokens: int, available_bytes: int, asked_bytes: int | None
) -> KvMemory:
    """As asked, else half of what is available; without being asked, never below one context."""
    if asked_bytes is not None:
        return KvMemory(token_bytes, asked_bytes)
    one_context = token_bytes * context_tokens
    return KvMemory(token_bytes, max(one_context, int(available_bytes * _PART_OF_AVAILABLE)))


class Admission:
    """Counts what the engine holds and refuses what it cannot hold: sequences, and their memory.

    What waits may come to need as many times the memory as it may take places: the queue is as
    long in tokens as it is in sequences.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._limiter = ConcurrencyLimiter(max_running + max_waiting, servers=max_running)
        self._queue_factor = 1 + max_waiting / max_running
        self._most_tokens: float | None = None
        self._held_tokens = 0
        self._draining = False

    @property
    def held(self) -> int:
        return self._limiter.held

    @property
    def draining(self) -> bool:
        return self._draining

    def set_draining(self) -> None:
        self._draining = True

    def set_kv_capacity(self, tokens: int | None) -> None:
        """Of the sequences that run; None for no limit."""
        self._most_tokens = None if tokens is None else tokens * self._queue_factor

    def take(self, request: SequenceRequest, now_s: float) -> None:
        """Raises: EngineDraining, QueueFull (with the time until a place is likely free)."""
        if self._draining:
            raise EngineDraining("the engine is shutting down; send this to another replica")
        if self._lacks_memory(request):
            raise QueueFull(
                "what the engine holds may need all memory for keys and values; try again later, "
                "or with a lower max_tokens",
                retry_delay_s=self._limiter.refuse(request.caller, now_s),
            )
        if (delay_s := self._limiter.try_acquire(request.caller, now_s)) is not None:
            raise QueueFull(
                f"the engine holds {self.held} sequences and has no place for more of this "
                "caller's; try again later",
                retry_delay_s=delay_s,
            )
        self._held_tokens += request.max_total_tokens

    def release(self, request: SequenceRequest, now_s: float) -> None:
        """A sequence ended; how often that happens is what a retry delay is estimated from."""
        self._held_tokens -= request.max_total_tokens
        self._limiter.release(request.caller, now_s)

    def _lacks_memory(self, request: SequenceRequest) -> bool:
        most = self._most_tokens
        return most is not None and self._held_tokens + request.max_total_tokens > most
