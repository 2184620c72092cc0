"""The generations of this process by key, and what happens as readers come and go."""

import asyncio
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from mlxmesh_generation.domain.request import GenerationKey, GenerationRequest, Resumed
from mlxmesh_generation.streams.limits import UnreadLimit, UnreadOutput
from mlxmesh_generation.streams.retention import Retention, RetentionLimits
from mlxmesh_generation.streams.stream import EventBuffer, size_bytes
from mlxmesh_generation.streams.transcript import Listeners, Transcript
from mlxmesh_generation.streams.waiting import CancellableWait
from mlxmesh_shared.errors import Cancelled, GenerationNotFound, MeshError, ReaderReplaced

MAX_DETACHED_S = 86_400.0
"""How long a detached generation runs without a reader."""
MAX_WAITING_BYTES = 64 * 1024
"""Of a detached generation's output, before it is numbered without a reader."""


class Running(Protocol):
    """A generation, or an ensemble that asks several."""

    @property
    def events(self) -> EventBuffer: ...

    def start(self) -> None:
        """Raises: what prevents a start at once; later errors are events."""
        ...

    def cancel(self) -> None: ...

    def fail(self, error: MeshError) -> None:
        """Ends it with an error, after the text so far."""
        ...

    def abort(self, error: MeshError) -> None:
        """Ends it with an error and discards the output that its reader has not read."""
        ...


class EntryIndex:
    """Entries by key, within the limits on retained and on unread output."""

    def __init__(
        self,
        *,
        retained: RetentionLimits,
        max_unread_bytes: int,
        detached_timeout_s: float,
        max_detached_s: float = MAX_DETACHED_S,
    ) -> None:
        """detached_timeout_s, max_detached_s: how long generations run without a reader; the
        second is for those that are to be detached.
        """
        self.retention = Retention(retained, forget=self._forget)
        self.unread = UnreadLimit(max_unread_bytes)
        self.detached_timeout_s = detached_timeout_s
        self.max_detached_s = max_detached_s
        self._entries: dict[GenerationKey, Entry] = {}

    def get(self, key: GenerationKey) -> "Entry | None":
        return self._entries.get(key)

    def add(self, request: GenerationRequest, *, resumed: bool) -> "Entry":
        entry = self._entries[request.key] = Entry(request, self, resumed=resumed)
        return entry

    def has(self, entry: "Entry") -> bool:
        return self._entries.get(entry.key) is entry

    def remove(self, entry: "Entry") -> None:
        """Frees the key; a no-op when another entry has it."""
        if self.has(entry):
            del self._entries[entry.key]
            self.retention.remove(entry.key)

    def _forget(self, key: GenerationKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry.on_forgotten()


class Entry:
    """One request_id in use: while its generation is prepared, runs, and is retained.

    A generation whose caller chose the request_id is retained: it survives its readers, and its
    messages stay for later ones. Any other ends when its reader leaves.
    """

    def __init__(self, request: GenerationRequest, index: EntryIndex, *, resumed: bool) -> None:
        self.key = request.key
        self.digest = request.digest
        self.request = request.kept
        """The encoded request; empty if it is not kept."""
        self.resumed = resumed
        self.takeover = 0
        """Which request to resume the stream was the last one here; 0 without one."""
        self.settled = asyncio.Event()
        """Set once the generation has started or failed to."""
        self._index = index
        self._runs_detached = request.detached
        self._unread = UnreadOutput(request.caller, self._on_too_much_unread)
        self._quota = ExitStack()
        self._generation: Running | None = None
        self._transcript: Transcript | None = None
        self._cancelled = False
        self.waiting = CancellableWait()
        """Until an engine is connected."""
        self._started = False
        self._detached: asyncio.TimerHandle | None = None

    @property
    def retained(self) -> bool:
        return self.digest is not None

    @property
    def transcript(self) -> Transcript | None:
        """None until the generation has started."""
        return self._transcript if self._started else None

    # From preparation to the end.

    def acquire(self, quota: AbstractContextManager[None]) -> None:
        """Holds a quota until the generation ends. Raises what the quota raises."""
        self._quota.enter_context(quota)

    def open(self, generation: Running, resumed: Resumed | None) -> None:
        self._generation = generation
        received = resumed.received if resumed and self.retained else ()
        self._transcript = Transcript(
            generation.events,
            keeps=self.retained,
            resumed=resumed,
            received=received,
            listeners=Listeners(self._on_attached, self._on_detached, self._on_retained),
        )
        if self.retained:
            self._index.retention.add(self.key, self._transcript, self._unread.caller)
            kept_bytes = len(self.request) + sum(map(size_bytes, received))
            self._index.retention.grew(self.key, kept_bytes)
        if self._cancelled:
            generation.cancel()

    def start(self) -> Transcript:
        """Call it after open(). Raises: what Generation.start() raises."""
        assert self._generation is not None
        assert self._transcript is not None
        generation, transcript = self._generation, self._transcript
        try:
            generation.start()
        except MeshError as error:
            generation.fail(error)
            raise
        self._started = True
        return transcript

    def cancel(self) -> bool:
        """False when the generation has ended."""
        if self._transcript is not None and self._transcript.ended:
            return False
        self._cancelled = True
        self.waiting.cancel()
        if self._generation is not None:
            self._generation.cancel()
        return True

    def release(self, reason: MeshError | None = None) -> None:
        """Ends the generation, drops its messages, and frees the request_id.

        reason: what its reader gets; by default that it was replaced.
        """
        self._index.remove(self)
        self._stop_timer()
        error = reason or ReaderReplaced("this generation goes on for another reader")
        if self._generation is not None:
            self._generation.fail(error)
        if self._transcript is not None:
            self._transcript.drop_unread(error)
        self._quota.close()

    # Callbacks of the generation, of its transcript and of the limits.

    def on_ended(self) -> None:
        # This frees the prompt too, which may be much larger than the retained messages.
        self._generation = None
        self._quota.close()
        self._index.retention.note_end(self.key)

    def on_backlog(self, by_bytes: int) -> None:
        self._index.unread.changed(self._unread, by_bytes)
        if self._runs_detached and self._unread.size_bytes > MAX_WAITING_BYTES:
            self._retain_waiting()

    def on_forgotten(self) -> None:
        """Retention gave it up. A current reader may finish; its leaving drops the rest."""
        if self._transcript is not None and not self._transcript.is_read:
            self._transcript.drop_unread(GenerationNotFound("it is no longer retained"))

    def _on_attached(self) -> None:
        self._stop_timer()

    def _on_detached(self) -> None:
        if not self.retained or not self._index.has(self):
            self.release(Cancelled("its reader left"))
        elif self._transcript is not None and not self._transcript.ended:
            loop = asyncio.get_running_loop()
            index = self._index
            timeout_s = index.max_detached_s if self._runs_detached else index.detached_timeout_s
            self._detached = loop.call_later(timeout_s, self._on_detached_timeout)

    def _on_detached_timeout(self) -> None:
        if self._generation is not None:
            self._generation.fail(Cancelled("it was cancelled: no reader attached in time"))

    def _retain_waiting(self) -> None:
        """Nobody reads a detached generation; its output counts as retained, not as unread."""
        if self._transcript is not None and not self._transcript.is_read:
            self._transcript.number_waiting()

    def _on_retained(self, size_bytes: int) -> None:
        self._index.retention.grew(self.key, size_bytes)

    def _on_too_much_unread(self) -> None:
        error = Cancelled("too much output waits for readers here; read faster or ask for less")
        if self._generation is not None:
            self._generation.abort(error)
        elif self._transcript is not None:
            self._transcript.drop_unread(error)

    def _stop_timer(self) -> None:
        if self._detached is not None:
            self._detached.cancel()
