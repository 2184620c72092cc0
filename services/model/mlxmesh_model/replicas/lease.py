"""Leadership among the model services of one database, wherever they run.

The leader counts up a number in the database; others take over once it has stood still for the
length of the lease by their own clocks, so no two clocks are compared. Every takeover begins a new
term, which fences off what a former leader still writes.

Sources: C. Gray and D. Cheriton (1989), Leases; the record version number of Amazon's DynamoDB lock
client; M. Kleppmann (2016), How to do distributed locking (fencing tokens).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.host.file_lock import FileLock
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

_log = logging.getLogger(__name__)

LEASE_S = 3.0
_BEATS_PER_LEASE = 4
_POLLS_PER_LEASE = 6
# The leader gives up before anybody can take over.
_KEPT_PART = 2 / 3


class Leadership(Protocol):
    """At most one process leads at a time."""

    async def try_acquire(self) -> bool:
        """Whether this process leads now."""
        ...

    async def acquire(self) -> None:
        """Returns once this process leads."""
        ...

    async def keep(self) -> None:
        """Keeps leading; returns once this process no longer does."""
        ...

    def leads(self) -> bool:
        """Whether this process leads as far as it knows without asking."""
        ...

    async def may_write(self, session: Session) -> bool:
        """Whether this process leads, for certain until the transaction ends."""
        ...

    async def release(self) -> None:
        """Lets another process lead at once."""
        ...


class FileLeadership:
    """Satisfies Leadership for processes of one host, by a lock that ends with its process."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    async def try_acquire(self) -> bool:
        return self._lock.try_acquire()

    async def acquire(self) -> None:
        await self._lock.acquire()

    async def keep(self) -> None:
        await asyncio.Event().wait()  # a process loses the lock only by its end

    def leads(self) -> bool:
        return self._lock.held

    async def may_write(self, session: Session) -> bool:
        return self._lock.held

    async def release(self) -> None:
        self._lock.release()


class Lease:
    """Satisfies Leadership for all processes of one database."""

    def __init__(
        self,
        transactions: Transactions,
        holder: str,
        *,
        name: str = "model",
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """holder: this process, for people who look into the table.

        lease_s: how long after its end a process that was killed is replaced, about.
        """
        self.transactions = transactions
        self._holder = holder
        self._name = name
        self._lease_s = lease_s
        self._clock = clock
        self._sleep = sleep
        self._term = 0
        """The term that this process leads; 0 for none."""
        self._renewed_at = 0.0
        self._seen: tuple[int, int] | None = None
        self._seen_at = 0.0

    async def try_acquire(self) -> bool:
        if self._term and await self._beat():
            return True
        started = self._clock()
        row = await self._read()
        if row is not None and not self._is_free(*row):
            return False
        self._term = await self._begin_term(row)
        self._renewed_at = started
        return self._term > 0

    async def acquire(self) -> None:
        while True:
            with suppress(MeshError):  # whatever needs the database reports it
                if await self.try_acquire():
                    return
            await self._sleep(self._lease_s / _POLLS_PER_LEASE)

    async def keep(self) -> None:
        while self.leads():
            await self._sleep(self._lease_s / _BEATS_PER_LEASE)
            if not await self._beat_in_time():
                break
        self._term = 0
        _log.warning("another model service leads, or the database does not respond")

    def leads(self) -> bool:
        return self._term > 0 and self._remaining_s() > 0

    async def may_write(self, session: Session) -> bool:
        found = await session.fetch("SELECT term FROM leadership WHERE name = $1", self._name)
        return bool(found) and found[0]["term"] == self._term

    async def release(self) -> None:
        if self._term:
            with suppress(MeshError):  # then the lease runs out
                await self._give_up()
        self._term = 0

    def _remaining_s(self) -> float:
        return self._renewed_at + self._lease_s * _KEPT_PART - self._clock()

    def _is_free(self, holder: str, term: int, beat: int) -> bool:
        """Whether nobody leads: released, or without a beat for the length of a lease."""
        if not holder:
            return True
        now = self._clock()
        if self._seen != (term, beat):
            self._seen, self._seen_at = (term, beat), now
        return now - self._seen_at >= self._lease_s

    async def _beat_in_time(self) -> bool:
        """Whether this process still leads; an attempt that fails is repeated while there is time.

        A process that was suspended has no time left.
        """
        if self._remaining_s() <= 0:
            return False
        beat = asyncio.ensure_future(self._beat())
        await asyncio.wait([beat], timeout=self._remaining_s())
        if not beat.done():
            beat.add_done_callback(_ignore_result)
            return False
        try:
            return beat.result()
        except MeshError:
            return True

    @uncancellable
    async def _read(self) -> tuple[str, int, int] | None:
        async def read(session: Session) -> tuple[str, int, int] | None:
            found = await session.fetch(
                "SELECT holder, term, beat FROM leadership WHERE name = $1", self._name
            )
            return (found[0]["holder"], found[0]["term"], found[0]["beat"]) if found else None

        return await self.transactions.read(read)

    @uncancellable
    async def _begin_term(self, seen: tuple[str, int, int] | None) -> int:
        """The new term; 0 if somebody else began one or made a beat since the row was read."""
        async with self.transactions.write() as session:
            if seen is None:
                await session.fetch(
                    "INSERT INTO leadership (name, holder, term, beat) VALUES ($1, '', 0, 0)"
                    " ON CONFLICT (name) DO NOTHING",
                    self._name,
                )
            _, term, beat = seen or ("", 0, 0)
            begun = await session.fetch(
                "UPDATE leadership SET holder = $1, term = term + 1, beat = 0"
                " WHERE name = $2 AND term = $3 AND beat = $4 RETURNING term",
                *(self._holder, self._name, term, beat),
            )
            return begun[0]["term"] if begun else 0

    @uncancellable
    async def _beat(self) -> bool:
        """Whether this process still leads."""
        started = self._clock()
        async with self.transactions.write() as session:
            renewed = await session.fetch(
                "UPDATE leadership SET beat = beat + 1 WHERE name = $1 AND term = $2"
                " AND holder = $3 RETURNING beat",
                *(self._name, self._term, self._holder),
            )
        if renewed:
            self._renewed_at = started
        else:
            self._term = 0
        return bool(renewed)

    @uncancellable
    async def _give_up(self) -> None:
        async with self.transactions.write() as session:
            await session.fetch(
                "UPDATE leadership SET holder = '' WHERE name = $1 AND term = $2",
                *(self._name, self._term),
            )


def _ignore_result(beat: asyncio.Future[bool]) -> None:
    if not beat.cancelled():
        beat.exception()
