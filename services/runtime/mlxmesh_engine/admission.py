"""How many sequences the engine takes: pure, decided the moment a submit arrives."""

from mlxmesh_shared.errors import EngineDraining, QueueFull

_FIRST_GUESS_S = 1.0
_LONGEST_RETRY_S = 30.0


class Admission:
    """Counts the sequences that the engine holds and refuses those that it cannot hold."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._capacity = max_running + max_waiting
        self._held = 0
        self._draining = False
        self._between_ends_s: float | None = None
        self._last_end_s: float | None = None

    @property
    def held(self) -> int:
        return self._held

    @property
    def draining(self) -> bool:
        return self._draining

    def set_draining(self) -> None:
        self._draining = True

    def take(self) -> None:
        """Raises: EngineDraining, QueueFull (with the time until a place is likely free)."""
        if self._draining:
            raise EngineDraining("the engine is shutting down; send this to another replica")
        if self._held >= self._capacity:
            raise QueueFull(
                f"the engine holds {self._held} sequences, as many as it may; try again later",
                retry_delay_s=self._retry_delay_s(),
            )
        self._held += 1

    def release(self, now_s: float) -> None:
        """A sequence ended; how often that happens is what a retry delay is estimated from."""
        self._held -= 1
        if self._last_end_s is not None:
            gap_s = now_s - self._last_end_s
            smoothed = self._between_ends_s
            self._between_ends_s = gap_s if smoothed is None else 0.8 * smoothed + 0.2 * gap_s
        self._last_end_s = now_s

    def _retry_delay_s(self) -> float:
        if self._between_ends_s is None:
            return _FIRST_GUESS_S
        return min(max(self._between_ends_s, 0.05), _LONGEST_RETRY_S)
