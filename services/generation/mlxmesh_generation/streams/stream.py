"""The buffer between an engine and one reader."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from mlxmesh_generation.domain.request import (
    Delta,
    Event,
    Finished,
    PrefillProgress,
    PromptLogprobs,
    TokenLogprob,
)
from mlxmesh_generation.text.pieces import joined_calls
from mlxmesh_shared.errors import MeshError

# So that a message stays far below every receiver's size limit.
MAX_DELTA_TOKENS = 512
MAX_DELTA_CHARACTERS = 65_536
MAX_BACKLOG_TOKENS = 65_536
# The memory of an event without its text and tokens, on a 64-bit CPython.
_EVENT_BYTES = 200
_TOKEN_BYTES = 36
_LOGPROB_BYTES = 180


def size_bytes(event: Event) -> int:
    """The approximate memory of an event."""
    if isinstance(event, Delta):
        text_bytes = len(event.text) + len(event.reasoning)
        size = _EVENT_BYTES + text_bytes + _TOKEN_BYTES * len(event.token_ids)
        if event.calls or event.logprobs:
            size += sum(_EVENT_BYTES + len(call.arguments) for call in event.calls)
            size += _logprobs_bytes(event.logprobs)
        return size
    if isinstance(event, PromptLogprobs):
        return _EVENT_BYTES + _logprobs_bytes(event.tokens)
    return 2 * _EVENT_BYTES


def _logprobs_bytes(logprobs: Sequence[TokenLogprob]) -> int:
    """All but a prompt's first token have as many alternatives as the last one."""
    return len(logprobs) * _LOGPROB_BYTES * (1 + len(logprobs[-1].top)) if logprobs else 0


def _has_room(delta: Delta) -> bool:
    """Whether a later delta may be merged into it; an upstream's have text and no tokens."""
    if delta.token_ids or delta.logprobs:
        return max(len(delta.token_ids), len(delta.logprobs)) < MAX_DELTA_TOKENS
    arguments = sum(len(call.arguments) for call in delta.calls)
    return len(delta.text) + len(delta.reasoning) + arguments < MAX_DELTA_CHARACTERS


def _joined(delta: Delta, later: Delta) -> Delta:
    return Delta(
        delta.text + later.text,
        delta.token_ids + later.token_ids,
        delta.index,
        delta.reasoning + later.reasoning,
        joined_calls(delta.calls, later.calls),
        delta.logprobs + later.logprobs,
    )


def _nobody(_by_bytes: int) -> None: ...


class EventBuffer:
    """Events in order, for one reader. Deltas of one output that wait for the reader are merged.

    So a slow reader gets fewer, larger messages; the order of different outputs may change. The
    buffer is full once `MAX_BACKLOG_TOKENS`
    wait; the writer must check `full`, because nothing can slow an engine down.
    """

    def __init__(self, on_backlog: Callable[[int], None] = _nobody, *, outputs: int = 1) -> None:
        """`on_backlog` is called with changes of the bytes that wait for the reader.

        An event that a waiting reader takes at once is not part of them.
        """
        # With several outputs: how many events were taken, and by output the place of its last
        # delta, counted from the first event of all.
        self._places: dict[int, int] | None = {} if outputs > 1 else None
        self._taken = 0
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
            if self._places is not None:
                self._put_beside(event, self._places)
                return
            if isinstance(last, Delta) and _has_room(last):
                event = _joined(last, event)
                before_bytes = size_bytes(self._events.pop())
        elif isinstance(event, PrefillProgress) and isinstance(last, PrefillProgress):
            before_bytes = size_bytes(self._events.pop())
        elif isinstance(event, PromptLogprobs):
            self._backlog_tokens += len(event.tokens)
        elif isinstance(event, Finished):
            self._finished = event.total is not None
        self._events.append(event)
        self._note_bytes(size_bytes(event) - before_bytes)

    def _put_beside(self, delta: Delta, places: dict[int, int]) -> None:
        """Merges it with the last delta of its output, also if other events came in between."""
        place = places.get(delta.index, -1) - self._taken
        last = self._events[place] if place >= 0 else None
        if isinstance(last, Delta) and _has_room(last):
            joined = self._events[place] = _joined(last, delta)
            self._note_bytes(size_bytes(joined) - size_bytes(last))
            return
        places[delta.index] = self._taken + len(self._events)
        self._events.append(delta)
        self._note_bytes(size_bytes(delta))

    def _note_bytes(self, by_bytes: int) -> None:
        self._backlog_bytes += by_bytes
        if not self._wake():
            self._report()

    def fail(self, error: MeshError) -> None:
        """Ends the stream with an error, after the events already in it."""
        self._error = error
        self.wake()

    def drop(self, error: MeshError) -> None:
        """Discards the waiting events; the reader gets the error next, or an earlier one."""
        self._taken += len(self._events)
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
        """The next event; None when there is none yet. A Finished with the total is the last.

        Raises: the error of a failed stream, after every event before it.
        """
        if not self._events:
            if self._error is not None:
                raise self._error
            return None
        event = self._events.popleft()
        self._taken += 1
        if isinstance(event, Delta):
            self._backlog_tokens -= len(event.token_ids)
        elif isinstance(event, PromptLogprobs):
            self._backlog_tokens -= len(event.tokens)
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
