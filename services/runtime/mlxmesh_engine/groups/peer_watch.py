"""Which rank has been silent for too long. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Silence:
    rank: int
    seconds: float


class PeerWatch:
    """Knows when each other rank was last heard."""

    def __init__(
        self, ranks: Iterable[int], *, silence_s: float, clock: Callable[[], float]
    ) -> None:
        self._clock = clock
        self._silence_s = silence_s
        self._heard_s = dict.fromkeys(ranks, clock())

    def heard(self, rank: int) -> None:
        self._heard_s[rank] = self._clock()

    def limit(self, silence_s: float) -> None:
        """From now on this is too long."""
        self._silence_s = silence_s
        self._heard_s = dict.fromkeys(self._heard_s, self._clock())

    def silent(self) -> Silence | None:
        """The rank that was silent for longest, if that is too long."""
        rank = min(self._heard_s, key=lambda each: self._heard_s[each], default=None)
        if rank is None:
            return None
        seconds = self._clock() - self._heard_s[rank]
        return Silence(rank, seconds) if seconds > self._silence_s else None
