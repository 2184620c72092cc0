"""Downloads in SQL. Callers ask for changes; the leader's runner carries them out."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from mlxmesh_model.hub import queries
from mlxmesh_model.hub.download import Download, State, Wanted
from mlxmesh_shared.errors import DownloadNotFound, QueueFull
from mlxmesh_shared.sql.change_signal import ChangeSignal
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable

MAX_UNFINISHED = 100
RETENTION_S = 7 * 86_400
"""How long a download that completed is listed."""

Changed = Callable[[Download], Download]
"""The download after a change. Raises: IllegalState."""


def utc_now() -> datetime:
    """The time of now."""
    return datetime.now(UTC)


class DownloadStore:
    """Every change wakes the subscribers of this process at once, and others within a poll."""

    def __init__(
        self, transactions: Transactions, *, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self.transactions = transactions
        self.clock = clock
        self._changed = ChangeSignal()

    def subscribe(self) -> AbstractContextManager[asyncio.Event]:
        """An event that is set after each change; the subscriber clears it before it reads."""
        return self._changed.subscribe()

    async def follow(self, others: asyncio.Event) -> None:
        """Notifies of changes by other processes, while there are some; never ends."""
        await self._changed.poll(self.sequence, 0.5, others)

    # Reading.

    @uncancellable
    async def sequence(self) -> int:
        """A number that every change makes larger."""
        return await self.transactions.read(queries.sequence)

    @uncancellable
    async def all(self) -> list[Download]:
        """Every download, the newest first, also those that are being deleted."""
        return await self.transactions.read(queries.read_all)

    @uncancellable
    async def page(self, *, before: tuple[int, str], limit: int) -> list[Download]:
        """Downloads, the newest first."""
        return await self.transactions.read(partial(queries.read_page, before=before, limit=limit))

    # Changing.

    @uncancellable
    async def start(
        self, download_id: str, wanted: Wanted, *, load: bool, principal: str
    ) -> Download:
        """A new download, or the one of the same that has not completed, which goes on.

        Raises: QueueFull.
        """
        async with self.transactions.write() as session:
            known = await queries.read_all(session)
            unfinished = [each for each in known if each.state not in _ENDED]
            download = next((each for each in unfinished if each.wanted == wanted), None)
            if download is None:
                if len(unfinished) >= MAX_UNFINISHED:
                    raise QueueFull(
                        f"{MAX_UNFINISHED} downloads have not completed; cancel some of them first"
                    )
                download = Download(download_id, wanted, self.clock(), principal=principal)
            download = replace(download.resumed(), load=load or download.load)
            await self._put(session, download)
        self._changed.notify()
        return download

    @uncancellable
    async def change(self, download_id: str, changed: Changed) -> Download:
        """Changes a download. Raises: DownloadNotFound. IllegalState."""
        async with self.transactions.write() as session:
            download = await queries.find(session, download_id)
            if download is None or download.state is State.DELETING:
                raise DownloadNotFound(
                    f"there is no download {download_id}; list the downloads to see which",
                    field="download_id",
                )
            download = changed(download)
            await self._put(session, download)
        self._changed.notify()
        return download

    async def ask_to_delete(self, download_id: str) -> None:
        """Hides a download, and has the runner remove it. Raises: DownloadNotFound."""
        await self.change(download_id, lambda each: replace(each, state=State.DELETING))

    @uncancellable
    async def advance(self, download: Download, changed: Changed) -> Download | None:
        """Changes a download that its attempt still runs for; None if somebody paused or deleted
        it, or another attempt has begun.
        """
        async with self.transactions.write() as session:
            known = await queries.find(session, download.download_id)
            if known is None or (known.state, known.attempt) != (download.state, download.attempt):
                return None
            known = changed(known)
            await self._put(session, known)
        self._changed.notify()
        return known

    @uncancellable
    async def remove(self, download_id: str) -> None:
        """Removes the row of a download."""
        async with self.transactions.write() as session:
            await queries.delete(session, download_id)
            await queries.count_change(session)
        self._changed.notify()

    @uncancellable
    async def prune(self) -> None:
        """Removes downloads that completed long ago."""
        before_us = round((self.clock().timestamp() - RETENTION_S) * 1_000_000)
        async with self.transactions.write() as session:
            if not await queries.prune(session, before_us=before_us):
                return
            await queries.count_change(session)
        self._changed.notify()

    async def _put(self, session: Session, download: Download) -> None:
        await queries.put(session, download)
        await queries.count_change(session)


_ENDED = frozenset({State.COMPLETED, State.DELETING})
