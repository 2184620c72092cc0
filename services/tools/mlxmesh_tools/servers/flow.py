"""Bounds how much a server may send. Pure but for the clock that it is given."""

from collections.abc import Callable

from mlxmesh_shared.errors import ToolServerUnavailable

MAX_MESSAGES_PER_S = 500.0
BURST_MESSAGES = 1000.0
MAX_BYTES_PER_S = 8.0 * 1024 * 1024
_BURST_S = 16.0


class Flow:
    """A budget of messages and bytes that fills up with time."""

    def __init__(self, clock: Callable[[], float], *, max_message_bytes: int) -> None:
        """clock: seconds that never go backwards."""
        self._clock = clock
        self._at_s = clock()
        self._messages = BURST_MESSAGES
        self._max_bytes = max(MAX_BYTES_PER_S * _BURST_S, 8.0 * max_message_bytes)
        self._bytes = self._max_bytes

    def spend(self, size: int, messages: int = 1) -> None:
        """Raises: ToolServerUnavailable when the server has sent too much."""
        now_s = self._clock()
        passed_s, self._at_s = now_s - self._at_s, now_s
        self._messages = min(BURST_MESSAGES, self._messages + passed_s * MAX_MESSAGES_PER_S)
        self._bytes = min(self._max_bytes, self._bytes + passed_s * MAX_BYTES_PER_S)
        self._messages -= messages
        self._bytes -= size
        if self._messages < 0 or self._bytes < 0:
            raise ToolServerUnavailable("it sends more than a client can read")
