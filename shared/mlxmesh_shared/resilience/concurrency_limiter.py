"""A bounded number of places, without a queue, shared fairly by those who ask. Pure."""

from collections import Counter

from mlxmesh_shared.resilience.retries import RetryDelayEstimator

# Who was refused counts as asking until it should have come back, and so much longer.
_STILL_ASKING_S = 2.0
_MAX_ASKING = 256


class ConcurrencyLimiter:
    """Whoever finds no place is told when to come back; until then others keep to their shares.

    While nobody is refused, one caller may take all places up to `per_caller`. Once another was, a
    caller that holds its equal share or more gets nothing until the other had its chance.
    """

    def __init__(
        self, limit: int, *, per_caller: int | None = None, servers: int | None = None
    ) -> None:
        """Of the places held, at most `servers` are worked on at a time; the rest wait."""
        self.resize(limit, per_caller=per_caller)
        self._held: Counter[str] = Counter()
        self._asking: dict[str, float] = {}
        """Until when each who was refused counts as asking; the longest refused first."""
        self._retry_delays = RetryDelayEstimator(servers=servers)

    def resize(self, limit: int, *, per_caller: int | None = None) -> None:
        """Changes the number of places; those that are held stay."""
        self._limit = limit
        self._per_caller = limit if per_caller is None else min(per_caller, limit)

    @property
    def held(self) -> int:
        return self._retry_delays.held

    def take(self, caller: str, now_s: float) -> float | None:
        """None when the caller has a place now; else after how many seconds it should ask again."""
        if self._refuses(caller, now_s):
            return self.refuse(caller, now_s)
        self._asking.pop(caller, None)
        self._held[caller] += 1
        self._retry_delays.take(now_s)
        return None

    def refuse(self, caller: str, now_s: float) -> float:
        """As if there were no place: after how many seconds the caller should ask again."""
        delay_s = self._retry_delays.promise(now_s)
        self._asking.pop(caller, None)
        if len(self._asking) >= _MAX_ASKING:
            del self._asking[next(iter(self._asking))]
        self._asking[caller] = now_s + delay_s + _STILL_ASKING_S
        return delay_s

    def give_back(self, caller: str, now_s: float) -> None:
        self._held[caller] -= 1
        if not self._held[caller]:
            del self._held[caller]
        self._retry_delays.give_back(now_s)

    def _refuses(self, caller: str, now_s: float) -> bool:
        mine = self._held[caller]
        return (
            mine >= self._per_caller
            or self._above_share(caller, mine, now_s)
            or not self._retry_delays.welcome(self._limit - self.held, now_s)
        )

    def _above_share(self, caller: str, mine: int, now_s: float) -> bool:
        """Whether somebody else asks who holds less than its share, and the caller has its own."""
        self._asking = {who: until_s for who, until_s in self._asking.items() if until_s > now_s}
        others = self._asking.keys() - {caller}
        if not others:
            return False
        share = max(1, self._limit // len(self._held.keys() | self._asking.keys() | {caller}))
        return mine >= share and any(self._held[who] < share for who in others)
