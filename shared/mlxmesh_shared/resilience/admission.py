"""Admits calls up to a limit that callers share fairly, whatever their protocol."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlxmesh_shared.errors import TooManyRequests
from mlxmesh_shared.resilience.concurrency_limiter import ConcurrencyLimiter


class CallAdmission:
    """Counts running calls by caller."""

    def __init__(
        self,
        limiter: ConcurrencyLimiter,
        *,
        on_refused: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """on_refused: called for each refused call, with the number of running calls."""
        self._limiter = limiter
        self._on_refused = on_refused
        self._clock = clock

    def admit(self, caller: str) -> None:
        """Counts a call until it is released. Raises: TooManyRequests, with a time to retry."""
        delay_s = self._limiter.try_acquire(caller, self._clock())
        if delay_s is None:
            return
        self._on_refused(self._limiter.held)
        raise TooManyRequests(
            f"{self._limiter.held} calls are running here, and the limit allows no more of this "
            "caller; try again later",
            retry_delay_s=delay_s,
        )

    def release(self, caller: str) -> None:
        """A call that was admitted has ended."""
        self._limiter.release(caller, self._clock())

    def resize(self, limit: int, *, per_caller: int | None) -> None:
        """Changes the limit; running calls continue."""
        self._limiter.resize(limit, per_caller=per_caller)
