"""Asks the access service for slices before the last ones are spent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from mlxmesh_gateway.access.pause import pause
from mlxmesh_gateway.access.policies import Limit, Subject
from mlxmesh_gateway.access.quotas.account import Ask, Grant
from mlxmesh_gateway.access.quotas.keeper import QuotaKeeper
from mlxmesh_shared.errors import MeshError

_log = logging.getLogger(__name__)

TICK_S = 0.5
MIN_INTERVAL_S = 0.02
AWAY_INTERVAL_S = 1.0
MAX_SLICES = 1024
"""Of one question: as many as the contract allows."""

Lease = Callable[[Sequence[tuple[Subject, Limit, Ask]]], Awaitable[Sequence[Grant]]]
"""Asks for slices. Raises: MeshError."""


class SteadyClock:
    """Unix time that never goes back, whatever is done to the host's clock."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def __call__(self) -> float:
        return self._offset_s + time.monotonic()


class QuotaRenewer:
    """Renews the slices of a keeper's accounts."""

    def __init__(self, lease: Lease, *, clock: Callable[[], float]) -> None:
        self._lease = lease
        self._clock = clock
        self._needed = asyncio.Event()
        self._is_away = False

    def need(self) -> None:
        """An account needs a new slice."""
        self._needed.set()

    async def run(self, keeper: QuotaKeeper) -> None:
        """Renews until cancelled; sleeps while there is no account."""
        while True:
            if keeper.accounts:
                await pause(TICK_S, self._needed)
            else:
                await self._needed.wait()
                self._needed.clear()
            try:
                await self._renew(keeper)
            except Exception:  # noqa: BLE001 - renewing must not end
                _log.exception("slices of quotas could not be renewed; trying again")
            await asyncio.sleep(AWAY_INTERVAL_S if self._is_away else MIN_INTERVAL_S)

    async def _renew(self, keeper: QuotaKeeper) -> None:
        for charge in list(keeper.charges):
            charge.progress()
        now_s = self._clock()
        due = [
            (account_id, account)
            for account_id, account in keeper.accounts.items()
            if account.needs_renewal(now_s)
        ]
        for first in range(0, len(due), MAX_SLICES):
            part = due[first : first + MAX_SLICES]
            asks = [(subject, kind, account.ask()) for (subject, kind), account in part]
            try:
                granted = await self._lease(asks)
            except MeshError as error:
                self._set_away(True, error.message)
                for _, account in part:
                    account.fail()
            except BaseException:
                for _, account in part:
                    account.fail()
                raise
            else:
                self._set_away(False)
                answered_s = self._clock()
                for (_, account), grant in zip(part, granted, strict=True):
                    account.answer(grant, answered_s)
            finally:
                keeper.note_answers()
        keeper.forget_idle()

    def _set_away(self, away: bool, why: str = "") -> None:
        if away and not self._is_away:
            _log.warning("quotas are renewed by this gateway itself until access is back: %s", why)
        self._is_away = away
