"""Bounds the history: sums old hours by day, and removes what is too old to keep."""

import asyncio
import logging
import time
from collections.abc import Callable

from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.history import rows
from mlxmesh_model.history.periods import DAY_S, by_day
from mlxmesh_model.outcomes.recorder import prune_batches
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

BATCH_RETENTION_S = 7 * DAY_S
"""How long the last batch of an instance that reports nothing is remembered."""
_INTERVAL_S = 3600
_HOURS_AT_A_TIME = 500
"""In one transaction, which keeps others waiting."""

_log = logging.getLogger("mlxmesh.model")


class HistoryMaintenance:
    """Keeps hours for some days, then days for some more."""

    def __init__(
        self,
        store: Store,
        *,
        hourly_days: int,
        daily_days: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: Unix time in seconds."""
        self._store = store
        self._hourly_s = hourly_days * DAY_S
        self._daily_s = daily_days * DAY_S
        self._clock = clock

    @property
    def transactions(self) -> Transactions:
        """For `uncancellable`."""
        return self._store.transactions

    async def run(self) -> None:
        """Rolls up and prunes now and then, until cancelled; what fails is tried again later."""
        while True:
            try:
                await self.roll_up()
                await self.prune()
            except MeshError as error:
                _log.warning("the history was not rolled up: %s", error.message)
            await asyncio.sleep(_INTERVAL_S)

    async def roll_up(self) -> None:
        """Sums hours that are older than their retention by day. Raises: MeshError."""
        before_s = int(self._clock() - self._hourly_s) // DAY_S * DAY_S
        while await self._roll_up_some(before_s):
            pass

    @uncancellable
    async def prune(self) -> None:
        """Removes days, and numbers of batches, that are too old. Raises: MeshError."""
        now_s = int(self._clock())
        async with self.transactions.write() as session:
            await rows.prune_days(session, before_s=now_s - self._daily_s)
            await prune_batches(session, before_s=now_s - BATCH_RETENTION_S)

    @uncancellable
    async def _roll_up_some(self, before_s: int) -> bool:
        """Whether there may be more."""
        async with self.transactions.write() as session:
            hours = await rows.take_oldest_hours(session, before_s=before_s, limit=_HOURS_AT_A_TIME)
            await rows.add(session, by_day(hours))
        return len(hours) == _HOURS_AT_A_TIME
