"""The buffer between an engine and one reader."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from mlxmesh_generation.domain.request import Delta, Event, Finished, PrefillProgress
from mlxmesh_shared.errors import MeshError

# So that a message stays far below every receiver's size limit.
MAX_DELTA_TOKENS = 512
MAX_BACKLOG_TOKENS = 65_536
# The memory of an event without its text and tokens, on a 64-bit CPython.
_EVENT_BYTES = 200
_TOKEN_BYTES = 36


def size_bytes(event: Event) -> int:
    """The approximate memory of an event."""
    if isinstance(event, Delta):
        return _EVENT_BYTES + len(event.text) + _TOKEN_BYTES * len(event.token_ids)
    return 2 * _EVENT_BYTES


def _nobody(_by_bytes: int) -> None: ...


class EventBuffer:
    """Events in order, for one reader. Deltas that wait for the reader are merged.

    So a slow reader gets fewer, larger messages. The buffer is full once `MAX_BACKLOG_TOKENS`
    wait; the writer must check `full`, because nothing can slow an engine down.
    """

    def __init__(self, on_backlog: Callable[[int], None] = _nobody) -> None:
        """`on_backlog` is called with changes of the bytes that wait for the reader.

        An event that a waiting reader takes at once is not part of them.
        """
        self._on_backlog = on_backlog
        self._backlog_bytes = self._reported_bytes = 0
        self._events: deque[Event] = deque()
        self._backlog_tokens = 0
        self._finished = False
        self._error: MeshError | None = None
        self._reader: asyncio.Future[None] | None = None

    @property
    def full(self) -> bool:
        return self._backlog_tokens > MAX_BACKLOG_TOKENS

    def put(self, event: Event) -> None:
        last = self._events[-1] if self._events else None
        before_bytes = 0
        if isinstance(event, Delta):
            self._backlog_tokens += len(event.token_ids)
            if isinstance(last, Delta) and len(last.token_ids) < MAX_DELTA_TOKENS:
                event = Delta(last.text + event.text, last.token_ids + event.token_ids)
                before_bytes = size_bytes(self._events.pop())
        elif isinstance(event, PrefillProgress) and isinstance(last, PrefillProgress):
            before_bytes = size_bytes(self._events.pop())
        elif isinstance(event, Finished):
            self._finished = True
        self._events.append(event)
        self._backlog_bytes += size_bytes(event) - before_bytes
        if not self._wake():
            self._report()

    def fail(self, error: MeshError) -> None:
        """Ends the stream with an error, after the events already in it."""
        self._error = error
        self.wake()

    def drop(self, error: MeshError) -> None:
        """Discards the waiting events; the reader gets the error next, or an earlier one."""
        self._events.clear()
        self._backlog_tokens = self._backlog_bytes = 0
        self._error = self._error or error
        self.wake()
        self._report()

    async def wait(self) -> None:
        """Returns after the next put(), fail(), drop() or wake()."""
        self._reader = asyncio.get_running_loop().create_future()
        await self._reader

    def pop(self) -> Event | None:
        """The next event, of which Finished is the last; None when there is none yet.

        Raises: the error of a failed stream, after every event before it.
        """
        if not self._events:
            if self._error is not None:
                raise self._error
            return None
        event = self._events.popleft()
        if isinstance(event, Delta):
            self._backlog_tokens -= len(event.token_ids)
        self._backlog_bytes -= size_bytes(event)
        if self._reported_bytes:
            self._report()
        return event

    @property
    def waiting(self) -> Sequence[Event]:
        """The events that no reader has taken; it takes none."""
        return tuple(self._events)

    @property
    def error(self) -> MeshError | None:
        """Why the stream failed."""
        return self._error

    @property
    def ended(self) -> bool:
        """Whether no event can follow."""
        return self._finished or self._error is not None

    @property
    def failed(self) -> bool:
        return self._error is not None

    def wake(self) -> None:
        self._wake()

    def _wake(self) -> bool:
        """Whether a reader was waiting."""
        reader, self._reader = self._reader, None
        if reader is None or reader.done():
            return False
        reader.set_result(None)
        return True

    def _report(self) -> None:
        change = self._backlog_bytes - self._reported_bytes
        if change:
            self._reported_bytes = self._backlog_bytes
            self._on_backlog(change)
