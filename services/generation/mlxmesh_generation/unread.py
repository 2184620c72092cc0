"""How much output waits for readers: for all generations together, and for each caller. Pure."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(eq=False)
class UnreadOutput:
    """What waits for the reader of one generation."""

    caller: str
    give_up: Callable[[], None]
    """Ends the generation and drops what waits."""
    size_bytes: int = 0


class UnreadLimit:
    """Beyond it, the caller with the most unread output loses its largest generation.

    So a caller whose readers stand still takes nothing from the readers of others.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: dict[str, set[UnreadOutput]] = {}
        self._bytes: Counter[str] = Counter()
        self.total_bytes = 0

    def changed(self, output: UnreadOutput, by_bytes: int) -> None:
        """More waits than before, or less."""
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
        """Whether that made room."""
        before = self.total_bytes
        caller = max(self._waiting, key=lambda name: self._bytes[name])
        max(self._waiting[caller], key=lambda output: output.size_bytes).give_up()
        return self.total_bytes < before
