"""The news that one Execute stream has yet to send, in bounded memory."""

import asyncio

from mlxmesh_engine.request import Load, Update

_MOST_PENDING = 4096


class Outbox:
    """Coalesces: while the reader is behind, a sequence's news pile up in one entry.

    Used on the event loop only.
    """

    def __init__(self) -> None:
        self._pending: list[Update] = []
        self._open_entry: dict[int, int] = {}
        self._load: Load | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def put(self, updates: list[Update], load: Load | None = None) -> None:
        for update in updates:
            index = self._open_entry.pop(update.sequence_id, None)
            if index is None:
                index = len(self._pending)
                self._pending.append(update)
            else:
                self._pending[index] = self._pending[index].followed_by(update)
            if not update.last:
                self._open_entry[update.sequence_id] = index
        self._load = load or self._load
        self._note_news()

    def put_apart(self, update: Update) -> None:
        """Adds news that must not mix with those of a living sequence of the same number."""
        self._pending.append(update)
        self._note_news()

    def close(self) -> None:
        """No more news: `take` gives what is left, then None."""
        self._closed = True
        self._news.set()

    async def room(self) -> None:
        """Returns when the reader has caught up enough for more commands."""
        await self._room.wait()

    async def take(self) -> tuple[list[Update], Load | None] | None:
        """All news since the last call, waiting for some; None once closed and empty."""
        await self._news.wait()
        if not self._pending and self._closed:
            return None
        taken, self._pending = self._pending, []
        self._open_entry.clear()
        if not self._closed:
            self._news.clear()
        self._room.set()
        return taken, self._load

    def _note_news(self) -> None:
        self._news.set()
        if len(self._pending) >= _MOST_PENDING:
            self._room.clear()
