"""The access database: transactions, the revision of policies, and who waits for changes."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

from mlxmesh_access import audit_log
from mlxmesh_access.clock import Clock
from mlxmesh_access.schema import ACCESS
from mlxmesh_shared.sql.change_signal import ChangeSignal
from mlxmesh_shared.sql.database import Database, Session, open_database
from mlxmesh_shared.sql.errors import explained
from mlxmesh_shared.sql.sqlite import create_private_file
from mlxmesh_shared.sql.transactions import Transactions, uncancellable
from mlxmesh_shared.sql.urls import DatabaseUrl, SqliteFile

MAX_WAIT_S = 4.0
"""How long a write waits for others. Gateways repeat what fails, so a longer queue helps nobody."""
_NEXT_REVISION = "UPDATE counters SET value = value + 1 WHERE name = 'revision'"
_REVISION = "SELECT value FROM counters WHERE name = 'revision'"


@dataclass(frozen=True)
class Change:
    """A transaction that changes something, on behalf of someone."""

    session: Session
    actor: str
    now_ms: int

    async def audit(self, action: str, target: str, details: str = "") -> None:
        """Adds an entry to the audit log; it must contain no secret."""
        await audit_log.record(
            self.session, self.now_ms, self.actor, action=action, target=target, details=details
        )


class AccessDatabase:
    """What all parts of the service share of the database."""

    def __init__(self, url: DatabaseUrl, database: Database, clock: Clock) -> None:
        """Takes ownership of the database."""
        self.transactions = Transactions(url, ACCESS, database, max_wait_s=MAX_WAIT_S)
        self.clock = clock
        self._changed = ChangeSignal()

    @classmethod
    async def open(cls, url: DatabaseUrl, clock: Clock) -> "AccessDatabase":
        """Opens the database and upgrades its tables; the caller closes it.

        A new file can be read by its owner only: it contains the hashes of passwords.
        Raises: MeshError.
        """
        if isinstance(url, SqliteFile):
            with explained(url, ACCESS):
                create_private_file(url.path)
        return cls(url, await open_database(url, ACCESS), clock)

    async def close(self) -> None:
        """Closes the database after running operations have ended."""
        await self.transactions.close()

    @asynccontextmanager
    async def changing(self, actor: str) -> AsyncGenerator[Change]:
        """A transaction that gives policies the next revision, and tells those who wait for it.

        actor: the id of the principal that changes something.
        """
        async with self.transactions.write() as session:
            yield Change(session, actor, self.clock())
            await session.fetch(_NEXT_REVISION)
        self._changed.notify()

    @asynccontextmanager
    async def recording(self, actor: str) -> AsyncGenerator[Change]:
        """A transaction that changes nothing that gateways watch, such as a new session."""
        async with self.transactions.write() as session:
            yield Change(session, actor, self.clock())

    @uncancellable
    async def revision(self) -> int:
        """The number of changes of policies so far."""
        return await self.transactions.read(read_revision)

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each change; the subscriber clears it before it reads."""
        return self._changed.subscribe()

    async def poll_changes(self, interval_s: float, others: asyncio.Event) -> None:
        """Notifies subscribers of changes by other processes too; never ends.

        others: set while there are other processes that may change something.
        """
        await self._changed.poll(self.revision, interval_s, others)


async def read_revision(session: Session) -> int:
    """The revision, within a transaction."""
    [row] = await session.fetch(_REVISION)
    return row["value"]
