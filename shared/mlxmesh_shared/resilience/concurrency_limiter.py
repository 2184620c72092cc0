"""A concurrency limit without a queue, shared fairly between callers. Pure."""

from collections import Counter

from mlxmesh_shared.resilience.retries import RetryDelayEstimator

# A refused caller counts as waiting until its retry is due, and for this long afterwards.
_RETRY_GRACE_S = 2.0
_MAX_WAITING = 256


class ConcurrencyLimiter:
    """Grants slots; a caller that is refused gets a retry delay and has precedence afterwards.

    While no caller is refused, one caller may use all slots up to `per_caller`. After another was
    refused, a caller that holds its equal share or more is refused until the other has retried.
    """

    def __init__(
        self, limit: int, *, per_caller: int | None = None, servers: int | None = None
    ) -> None:
        """`servers`: how many of the acquired slots are processed concurrently; the rest queue."""
        self.resize(limit, per_caller=per_caller)
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, float] = {}
        """Until when each refused caller counts as waiting; the earliest refused first."""
        self._retry_delays = RetryDelayEstimator(servers=servers)

    def resize(self, limit: int, *, per_caller: int | None = None) -> None:
        """Changes the number of slots; those in use are unaffected."""
        self._limit = limit
        self._per_caller = limit if per_caller is None else min(per_caller, limit)

    @property
    def held(self) -> int:
        """Slots in use."""
        return self._retry_delays.held

    def try_acquire(self, caller: str, now_s: float) -> float | None:
        """None if the caller got a slot, else the delay in seconds before its retry."""
        if self._refuses(caller, now_s):
            return self.refuse(caller, now_s)
        self._waiting.pop(caller, None)
        self._held[caller] += 1
        self._retry_delays.acquire(now_s)
        return None

    def refuse(self, caller: str, now_s: float) -> float:
        """Refuses as if all slots were in use: the delay in seconds before the caller's retry."""
        delay_s = self._retry_delays.schedule_retry(now_s)
        self._waiting.pop(caller, None)
        if len(self._waiting) >= _MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[caller] = now_s + delay_s + _RETRY_GRACE_S
        return delay_s

    def release(self, caller: str, now_s: float) -> None:
        """Frees one slot of the caller."""
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        self._retry_delays.release(now_s)

    def _refuses(self, caller: str, now_s: float) -> bool:
        own = self._held[caller]
        return (
            own >= self._per_caller
            or self._exceeds_share(caller, own, now_s)
            or not self._retry_delays.may_acquire(self._limit - self.held, now_s)
        )

    def _exceeds_share(self, caller: str, own: int, now_s: float) -> bool:
        """Whether the caller has its share while a waiting caller has less than its own."""
        self._waiting = {who: until_s for who, until_s in self._waiting.items() if until_s > now_s}
        others = self._waiting.keys() - {caller}
        if not others:
            return False
        share = max(1, self._limit // len(self._held.keys() | self._waiting.keys() | {caller}))
        return own >= share and any(self._held[who] < share for who in others)
