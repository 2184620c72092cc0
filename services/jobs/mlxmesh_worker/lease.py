"""How long a worker may rely on its session without hearing from the jobs service. Pure."""

from collections import deque
from collections.abc import Callable


class Lease:
    """A lease that runs from the time at which the last confirmed message was sent.

    The jobs service measures from when it received the message, so this one ends first.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: monotonic, in seconds; it goes on while this process is stopped."""
        self._clock = clock
        self._lease_s: float | None = None
        self._renewed_s = 0.0
        self._sent: deque[tuple[int, float]] = deque()

    def on_stream(self) -> None:
        """A new stream was opened: messages are numbered from 1 again."""
        self._sent.clear()

    def on_sent(self, number: int) -> None:
        """A message is about to be sent."""
        self._sent.append((number, self._clock()))

    def on_welcome(self, lease_s: float) -> None:
        """The service told the lease; a new session begins with its Hello."""
        if self._lease_s is None and self._sent:
            self._renewed_s = self._sent[0][1]
        self._lease_s = lease_s

    def on_confirmed(self, number: int) -> None:
        """Messages up to this number are confirmed."""
        while self._sent and self._sent[0][0] <= number:
            self._renewed_s = max(self._renewed_s, self._sent.popleft()[1])

    @property
    def length_s(self) -> float | None:
        """None before the first Welcome."""
        return self._lease_s

    @property
    def left_s(self) -> float | None:
        """None before the first Welcome."""
        if self._lease_s is None:
            return None
        return self._renewed_s + self._lease_s - self._clock()

    @property
    def expired(self) -> bool:
        """Whether the session may have been ended."""
        left_s = self.left_s
        return left_s is not None and left_s <= 0
