"""The tools database: transactions, and who waits for changes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

from mlxmesh_shared.sql.change_signal import ChangeSignal
from mlxmesh_shared.sql.database import Database, Session, open_database
from mlxmesh_shared.sql.errors import explained
from mlxmesh_shared.sql.sqlite import create_private_file
from mlxmesh_shared.sql.transactions import Transactions, uncancellable
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile
from mlxmesh_tools.clock import Clock
from mlxmesh_tools.storage import audit_rows
from mlxmesh_tools.storage.schema import TOOLS

_NEXT_REVISION = "UPDATE counters SET value = value + 1 WHERE name = 'revision' RETURNING value"
_REVISION = "SELECT value FROM counters WHERE name = 'revision'"


@dataclass(frozen=True)
class Change:
    """A transaction that changes something, on behalf of someone."""

    session: Session
    revision: int
    actor: str
    now_ms: int

    async def audit(self, action: str, target: str, details: str = "") -> None:
        """Adds an entry for the audit log; it must contain no secret."""
        entry = audit_rows.Entry(
            time_ms=self.now_ms, actor=self.actor, action=action, target=target, details=details
        )
        await audit_rows.add(self.session, entry)


class ToolsDatabase:
    """What all parts of the service share of the database."""

    def __init__(self, url: DatabaseUrl, database: Database, clock: Clock) -> None:
        """Takes ownership of the database."""
        self.transactions = Transactions(url, TOOLS, database)
        self.clock = clock
        self._changed = ChangeSignal()

    @classmethod
    async def open(cls, url: DatabaseUrl, clock: Clock) -> "ToolsDatabase":
        """Opens the database and upgrades its tables; the caller closes it.

        A new file can be read by its owner only. Raises: MeshError.
        """
        if isinstance(url, SqliteFile):
            with explained(url, TOOLS):
                create_private_file(url.path)
        return cls(url, await open_database(url, TOOLS), clock)

    async def close(self) -> None:
        """Closes the database after running operations have ended."""
        await self.transactions.close()

    @asynccontextmanager
    async def changing(self, actor: str) -> AsyncGenerator[Change]:
        """A transaction that changes servers or policies, and wakes those who wait for that."""
        async with self.transactions.write() as session:
            [row] = await session.fetch(_NEXT_REVISION)
            yield Change(session, row["value"], actor, self.clock())
        self._changed.notify()

    @uncancellable
    async def revision(self) -> int:
        """The number of changes so far."""
        return await self.transactions.read(_read_revision)

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each change; the subscriber clears it before it reads."""
        return self._changed.subscribe()

    async def poll_changes(self, interval_s: float, others: asyncio.Event) -> None:
        """Notifies subscribers of changes by other processes too; never ends.

        others: set while there are other processes that may change something.
        """
        await self._changed.poll(self.revision, interval_s, others)


async def _read_revision(session: Session) -> int:
    [row] = await session.fetch(_REVISION)
    return row["value"]
