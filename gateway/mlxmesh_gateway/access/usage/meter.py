"""Charges generations to quotas, and counts what they used."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlxmesh_gateway.access.quotas.keeper import Charge, QuotaKeeper
from mlxmesh_gateway.access.usage.ledger import Ledger
from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.used import Used


class UsageMeter:
    """Satisfies Meter."""

    def __init__(
        self,
        ledger: Ledger,
        quotas: QuotaKeeper,
        *,
        wanted: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """wanted: whether there is an access service that usage is reported to.

        clock: Unix time in seconds.
        """
        self._ledger = ledger
        self._quotas = quotas
        self._wanted = wanted
        self._clock = clock

    def begin(self, principal: Principal, *, max_tokens: int) -> MeteredCall:
        used = Used()
        charge = self._quotas.charge(principal, used, max_tokens=max_tokens)
        return MeteredCall(self, principal, used, charge)

    def count(self, principal: Principal, used: Used) -> None:
        """Counts a call that has ended."""
        if self._wanted():
            self._ledger.add(principal, used, self._clock())


class MeteredCall:
    """Satisfies CallMeter."""

    def __init__(
        self, meter: UsageMeter, principal: Principal, used: Used, charge: Charge | None
    ) -> None:
        self.used = used
        self._meter = meter
        self._principal = principal
        self._charge = charge

    def end(self) -> None:
        self._meter.count(self._principal, self.used)
        if self._charge is not None:
            self._charge.end()
