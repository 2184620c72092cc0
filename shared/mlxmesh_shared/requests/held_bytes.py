"""How many bytes the large requests of one server may have, while their calls run. Pure."""

from collections import Counter

from mlxmesh_shared.errors import TooManyRequests

SMALL_BYTES = 64 * 1024
"""Requests up to this size do not count: the number of calls bounds them."""
_RETRY_DELAY_S = 1.0


class HeldBytes:
    """A number of bytes for all callers together, half of it for each."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._by_caller: Counter[str] = Counter()
        self.held_bytes = 0

    def take(self, caller: str, size_bytes: int) -> None:
        """Counts a large request. Raises: TooManyRequests where there is no room for it."""
        mine = self._by_caller[caller] + size_bytes
        if self.held_bytes + size_bytes > self._limit_bytes or mine > self._limit_bytes // 2:
            raise TooManyRequests(
                f"requests that are under way here hold {self.held_bytes} bytes and there is no"
                f" room for {size_bytes} more of this caller's; try again later",
                retry_delay_s=_RETRY_DELAY_S,
            )
        self._by_caller[caller] = mine
        self.held_bytes += size_bytes

    def give_back(self, caller: str, size_bytes: int) -> None:
        """The call has ended."""
        self.held_bytes -= size_bytes
        self._by_caller[caller] -= size_bytes
        if not self._by_caller[caller]:
            del self._by_caller[caller]
