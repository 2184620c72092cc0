"""Charges generations to quotas, and counts what they used."""

from __future__ import annotations

import time
from collections.abc import Callable

from mlxmesh_gateway.access.quotas.keeper import Charge, QuotaKeeper
from mlxmesh_gateway.access.usage.ledger import Ledger
from mlxmesh_gateway.access.usage.once import CountedOnce
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
        self._once = CountedOnce()

    def begin(self, principal: Principal, *, max_tokens: int) -> MeteredCall:
        used = Used()
        charge = self._quotas.charge(principal, used, max_tokens=max_tokens)
        return MeteredCall(self, principal, used, charge)

    def attach(self, principal: Principal, request_id: str) -> MeteredCall | None:
        if not self._wanted():
            return None
        used = self._once.reading(principal.id, request_id)
        charge = self._quotas.charge_attached(principal, used)
        return MeteredCall(self, principal, used, charge, is_request=False)

    def count(self, principal: Principal, used: Used, *, is_request: bool) -> None:
        """Counts a call that has ended."""
        if not used.model and not is_request:
            return  # it was not found
        self._once.settle(principal.id, used, begins=is_request)
        has_tokens = used.prompt_tokens or used.completion_tokens or used.device_ms
        if self._wanted() and (is_request or has_tokens):
            self._ledger.add(principal, used, self._clock(), is_request=is_request)


class MeteredCall:
    """Satisfies CallMeter."""

    def __init__(
        self,
        meter: UsageMeter,
        principal: Principal,
        used: Used,
        charge: Charge | None,
        *,
        is_request: bool = True,
    ) -> None:
        self.used = used
        self._meter = meter
        self._principal = principal
        self._charge = charge
        self._is_request = is_request

    def end(self) -> None:
        self._meter.count(self._principal, self.used, is_request=self._is_request)
        if self._charge is not None:
            self._charge.end()
