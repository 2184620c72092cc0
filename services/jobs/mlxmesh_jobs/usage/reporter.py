"""Reports usage to the access service: at least sent once, recorded exactly once."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from mlxmesh_jobs.clock import Clock
from mlxmesh_jobs.domain.ports import JobStore, UsageBatch, UsageOutbox
from mlxmesh_jobs.usage.ledger import Spent, Subject, spent
from mlxmesh_shared.errors import InvalidArgument, MeshError

INTERVAL_S = 2.0
RETRY_S = 10.0
BATCH_SIZE = 4_096
"""Entries, which make at most as many records as one report may have."""
_log = logging.getLogger("mlxmesh.jobs")


class AccessService(Protocol):
    """What the reporter needs of the access service."""

    async def registered(self) -> None:
        """Returns once there is an access service."""
        ...

    async def report(self, batch: UsageBatch) -> None:
        """Records a batch. Raises: MeshError."""
        ...

    async def lease(self, used: Mapping[Subject, Spent]) -> Mapping[Subject, int]:
        """Counts tokens; returns in how many milliseconds each subject that has none left may use
        some again. Raises: MeshError.
        """
        ...


class UsageReporter:
    """Delivers the outbox. Without an access service it waits there, for one that comes later."""

    def __init__(
        self,
        store: JobStore,
        outbox: UsageOutbox,
        access: AccessService,
        *,
        clock: Clock,
        interval_s: float = INTERVAL_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._store = store
        self._outbox = outbox
        self._access = access
        self._clock = clock
        self._interval_s = interval_s
        self._retry_s = retry_s

    async def run(self) -> None:
        """Reports until it is cancelled."""
        with self._store.subscribe() as changed:
            while True:
                await self._access.registered()
                changed.clear()
                try:
                    while batch := await self._outbox.unreported(BATCH_SIZE):
                        await self._deliver(batch)
                except MeshError as error:
                    _log.info("usage is kept for later: %s", error.message)
                    await asyncio.sleep(self._retry_s)
                    continue
                await asyncio.sleep(self._interval_s)
                await changed.wait()

    async def _deliver(self, batch: UsageBatch) -> None:
        try:
            await self._access.report(batch)
        except InvalidArgument as error:
            _log.error("a batch of usage was refused and is dropped: %s", error.message)
        await self._outbox.reported(batch.batch_id)
        used = spent(batch.entries)
        for subject, wait_ms in (await self._access.lease(used)).items():
            for principal in sorted(used[subject].principals):
                until_ms = self._clock() + wait_ms
                _log.info("a quota of %s %s is used up", subject.kind, subject.name)
                await self._store.block_principal(principal, until_ms)
