"""How many requests this process holds, and how many bytes of them."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from mlxmesh_shared.errors import MessageTooLarge, TooManyRequests
from mlxmesh_shared.places import Places


class GenerationLimits:
    """Counts a request from before its prompt is tokenized until its generation is given up, or
    its tokens are counted.
    """

    def __init__(self, *, max_generations: int, max_held_bytes: int) -> None:
        self._places = Places(max_generations)
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0

    @contextmanager
    def holding(self, caller: str, message_bytes: int) -> Generator[None]:
        """Raises: TooManyRequests (with the time to come back), MessageTooLarge."""
        self._take(caller, message_bytes)
        self._held_bytes += message_bytes
        try:
            yield
        finally:
            self._held_bytes -= message_bytes
            self._places.give_back(caller, time.monotonic())

    def _take(self, caller: str, message_bytes: int) -> None:
        now_s = time.monotonic()
        if message_bytes > self._max_held_bytes:
            raise MessageTooLarge(
                f"the request has {message_bytes} bytes; all requests together may have "
                f"{self._max_held_bytes}; send a shorter prompt"
            )
        if self._held_bytes + message_bytes > self._max_held_bytes:
            delay_s: float | None = self._places.refuse(caller, now_s)
        else:
            delay_s = self._places.take(caller, now_s)
        if delay_s is not None:
            raise TooManyRequests(
                f"{self._places.held} requests are held here and there is no room for more of "
                "this caller's; try again later",
                retry_delay_s=delay_s,
            )
