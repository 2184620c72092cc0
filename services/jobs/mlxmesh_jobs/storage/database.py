"""The jobs database: transactions, group commit, and who waits for changes."""

import asyncio
from contextlib import AbstractContextManager

from mlxmesh_jobs.clock import Clock, system_clock
from mlxmesh_jobs.storage.group_commit import GroupCommit
from mlxmesh_jobs.storage.reading import read_change
from mlxmesh_jobs.storage.schema import JOBS
from mlxmesh_shared.sql.change_signal import ChangeSignal
from mlxmesh_shared.sql.database import Database, open_database
from mlxmesh_shared.sql.errors import explained
from mlxmesh_shared.sql.sqlite import create_private_file
from mlxmesh_shared.sql.transactions import Transactions, uncancellable
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile

MAX_WAIT_S = 4.0
"""How long a write waits for those of other processes."""


class JobsDatabase:
    """What all parts of the service share of the database."""

    def __init__(self, url: DatabaseUrl, database: Database, clock: Clock) -> None:
        """Takes ownership of the database."""
        self.transactions = Transactions(url, JOBS, database, max_wait_s=MAX_WAIT_S)
        self.clock = clock
        self._changed = ChangeSignal()
        self.group = GroupCommit(self.transactions, clock, self._changed.notify)

    @classmethod
    async def open(cls, url: DatabaseUrl, clock: Clock = system_clock) -> "JobsDatabase":
        """Opens the database and upgrades its tables; the caller closes it.

        A new file can be read by its owner only: it contains what callers submitted.
        Raises: MeshError.
        """
        if isinstance(url, SqliteFile):
            with explained(url, JOBS):
                create_private_file(url.path)
        return cls(url, await open_database(url, JOBS), clock)

    async def close(self) -> None:
        """Closes the database after running operations have ended."""
        await self.transactions.close()

    @uncancellable
    async def change(self) -> int:
        """The number of changes so far."""
        return await self.transactions.read(read_change)

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each change; the subscriber clears it before it reads."""
        return self._changed.subscribe()

    async def poll_changes(self, interval_s: float, others: asyncio.Event | None = None) -> None:
        """Notifies subscribers of changes by other processes too; never ends.

        others: set while there are other processes that may change something; None for always.
        """
        await self._changed.poll(self.change, interval_s, others)
