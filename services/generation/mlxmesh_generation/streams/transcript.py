"""The numbered messages of one generation, for one reader at a time."""

from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from mlxmesh_generation.domain.request import Event, Finished, Resumed, Started
from mlxmesh_generation.streams.numbering import Numbering
from mlxmesh_generation.streams.sent import Sent
from mlxmesh_generation.streams.stream import EventBuffer, size_bytes
from mlxmesh_shared.errors import InvalidArgument, MeshError, MessagesExpired, ReaderReplaced


def _nothing() -> None: ...


def _grew(_size_bytes: int) -> None: ...


@dataclass(frozen=True)
class Listeners:
    """Callbacks of a transcript."""

    on_read: Callable[[], None] = _nothing
    """A reader attached."""
    on_left: Callable[[], None] = _nothing
    """The reader detached or has read the last message."""
    on_kept: Callable[[int], None] = _grew
    """Called with the size of each message that is retained."""


class Transcript:
    """Events get their numbers when they are first read, so that waiting deltas can merge.

    With `keeps`, messages stay after they were read, for readers that attach again.
    """

    def __init__(
        self,
        events: EventBuffer,
        *,
        keeps: bool,
        resumed: Resumed | None = None,
        received: Sequence[Event] = (),
        listeners: Listeners = Listeners(),
    ) -> None:
        """resumed: of a generation that began in another process.

        received: its events so far, all or none.
        """
        after_sequence = resumed.after_sequence if resumed else 0
        self.started = resumed.started if resumed else None
        """The first event; None until it has been read."""
        self.numbering = Numbering(resumed.numberings if resumed else ())
        self._events = events
        self._keeps = keeps
        self._listeners = listeners
        self._kept: deque[Event] = deque(received)
        # What the messages that are not retained have sent.
        self._dropped = Sent(None if received else resumed)
        # The numbers of the last message that was dropped and of the last one that has a number.
        self._last = after_sequence
        self._gone = after_sequence - len(received)
        self._ends_with_last = False
        self._reader: object | None = None

    @property
    def last_sequence(self) -> int:
        """The number of the last message that has one."""
        return self._last

    @property
    def ended(self) -> bool:
        """Whether the generation has ended; its last messages may still be unread."""
        return self._events.ended

    @property
    def failed(self) -> bool:
        return self._events.failed

    @property
    def is_read(self) -> bool:
        return self._reader is not None

    async def read(self, after_sequence: int = 0) -> AsyncGenerator[tuple[int, Event]]:
        """Yields each message after a number, with its own number; replaces the current reader.

        Raises: InvalidArgument beyond the last message, MessagesExpired, ReaderReplaced, and the
        error of a failed generation.
        """
        self._check_known(after_sequence)
        reader = self._replace_reader()
        try:
            position = after_sequence
            while not (self._ends_with_last and position == self._last):
                event = self._find(position)
                if event is None:
                    await self._events.wait()
                else:
                    position += 1
                    yield position, event
                if self._reader is not reader:
                    raise ReaderReplaced("another reader took over; only one can read at a time")
        finally:
            if self._reader is reader:
                self._reader = None
                self._listeners.on_left()

    def was_read_by(self, resumed: Resumed) -> bool:
        """Whether a caller has received what it has from these messages, by their numbers."""
        count = resumed.after_sequence - self._gone
        if count < 0 or resumed.after_sequence > self._last:
            return False
        return self._dropped.is_what_was_received(islice(self._kept, count), resumed)

    def events(self) -> list[Event]:
        """All events so far, for which no reader is needed. Raises: MessagesExpired."""
        self._check_kept(0)
        return [*self._kept, *self._events.waiting]

    @property
    def error(self) -> MeshError | None:
        """Why the generation failed."""
        return self._events.error

    def number_waiting(self) -> None:
        """Numbers the waiting events as if they had been read, so that they are retained ones."""
        for _ in self._events.waiting:
            self._find(self._last)

    def drop_unread(self, error: MeshError) -> None:
        """Discards the unread messages; the reader gets the error instead."""
        self._events.drop(error)

    def drop_oldest(self) -> int:
        """Drops the oldest retained message; returns its size in bytes, 0 without one."""
        if not self._kept:
            return 0
        self._gone += 1
        oldest = self._kept.popleft()
        self._dropped.add(oldest)
        return size_bytes(oldest)

    def _check_known(self, after_sequence: int) -> None:
        # Nobody has received what has no number yet: the reader's number is of another instance.
        if after_sequence > self._last:
            raise InvalidArgument(
                f"after_sequence: the last message that was read here has number {self._last}; the"
                " numbering of the last message tells which instance has the stream",
                field="after_sequence",
            )
        self._check_kept(after_sequence)

    def _check_kept(self, position: int) -> None:
        if position < self._gone:
            raise MessagesExpired(
                f"the messages up to number {self._gone} are no longer kept; start a new generation"
            )

    def _replace_reader(self) -> object:
        reader = self._reader = object()
        self._events.wake()
        self._listeners.on_read()
        return reader

    def _find(self, position: int) -> Event | None:
        """The message after `position`; a new one gets its number now. None while there is none."""
        if position == self._last:
            event = self._events.pop()
            if event is None:
                return None
            self._number(event)
            return event
        self._check_kept(position)
        return self._kept[position - self._gone]

    def _number(self, event: Event) -> None:
        self._last += 1
        self._ends_with_last = isinstance(event, Finished) and event.total is not None
        if self._last == 1 and isinstance(event, Started):
            self.started = event
        if self._keeps:
            self._kept.append(event)
            self._listeners.on_kept(size_bytes(event))
        else:
            self._gone = self._last
