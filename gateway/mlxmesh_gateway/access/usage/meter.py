"""Charges generations to quotas, and counts what they used."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlxmesh_gateway.access.usage.ledger import Ledger
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.used import Used


class UsageMeter:
    """Satisfies Meter."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        wanted: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """wanted: whether there is an access service that usage is reported to.

        clock: Unix time in seconds.
        """
        self._ledger = ledger
        self._wanted = wanted
        self._clock = clock

    def begin(self, principal: Principal, *, max_tokens: int) -> MeteredCall:
        return MeteredCall(self, principal)

    def count(self, principal: Principal, used: Used) -> None:
        """Counts a call that has ended."""
        if self._wanted():
            self._ledger.add(principal, used, self._clock())


class MeteredCall:
    """Satisfies CallMeter."""

    def __init__(self, meter: UsageMeter, principal: Principal) -> None:
        self.used = Used()
        self._meter = meter
        self._principal = principal

    def end(self) -> None:
        self._meter.count(self._principal, self.used)
