"""How many sequences the engine takes: pure, decided the moment a submit arrives."""

from mlxmesh_engine.request import Sequence
from mlxmesh_shared.errors import EngineDraining, QueueFull
from mlxmesh_shared.places import Places


class Admission:
    """Counts what the engine holds and refuses what it cannot hold: sequences, and their memory.

    What waits may come to need as many times the memory as it may take places: the queue is as
    long in tokens as it is in sequences.
    """

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._places = Places(max_running + max_waiting, servers=max_running)
        self._queue_factor = 1 + max_waiting / max_running
        self._most_tokens: float | None = None
        self._held_tokens = 0
        self._draining = False

    @property
    def held(self) -> int:
        return self._places.held

    @property
    def draining(self) -> bool:
        return self._draining

    def set_draining(self) -> None:
        self._draining = True

    def set_kv_capacity(self, tokens: int | None) -> None:
        """Of the sequences that run; None for no limit."""
        self._most_tokens = None if tokens is None else tokens * self._queue_factor

    def take(self, request: Sequence, now_s: float) -> None:
        """Raises: EngineDraining, QueueFull (with the time until a place is likely free)."""
        if self._draining:
            raise EngineDraining("the engine is shutting down; send this to another replica")
        if self._lacks_memory(request):
            raise QueueFull(
                "what the engine holds may need all memory for keys and values; try again later, "
                "or with a lower max_tokens",
                retry_delay_s=self._places.refuse(request.caller, now_s),
            )
        if (delay_s := self._places.take(request.caller, now_s)) is not None:
            raise QueueFull(
                f"the engine holds {self.held} sequences and has no place for more of this "
                "caller's; try again later",
                retry_delay_s=delay_s,
            )
        self._held_tokens += request.most_tokens

    def release(self, request: Sequence, now_s: float) -> None:
        """A sequence ended; how often that happens is what a retry delay is estimated from."""
        self._held_tokens -= request.most_tokens
        self._places.give_back(request.caller, now_s)

    def _lacks_memory(self, request: Sequence) -> bool:
        most = self._most_tokens
        return most is not None and self._held_tokens + request.most_tokens > most
