"""The outputs that one Execute stream has yet to send, in bounded memory."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Protocol

from mlxmesh_engine.scheduling.capacity import Admission
from mlxmesh_engine.scheduling.request import (
    Load,
    SequenceKey,
    SequenceRequest,
    StepOutputs,
    Update,
)
from mlxmesh_shared.errors import InvalidArgument, MeshError

_MAX_PENDING = 4096


class Outbox:
    """Coalesces: while the reader is behind, a sequence's outputs pile up in one entry.

    Used on the event loop only.
    """

    def __init__(self) -> None:
        self._pending: list[Update] = []
        self._open_entry: dict[int, int] = {}
        self._load: Load | None = None
        self._outputs = asyncio.Event()
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
        """Adds outputs that must not mix with those of a living sequence of the same number."""
        self._pending.append(update)
        self._note_news()

    def close(self) -> None:
        """No more outputs: `take` gives what is left, then None."""
        self._closed = True
        self._outputs.set()

    async def room(self) -> None:
        """Returns when the reader has caught up enough for more commands."""
        await self._room.wait()

    async def take(self) -> tuple[list[Update], Load | None] | None:
        """All outputs since the last call, waiting for some; None once closed and empty."""
        await self._outputs.wait()
        if not self._pending and self._closed:
            return None
        taken, self._pending = self._pending, []
        self._open_entry.clear()
        if not self._closed:
            self._outputs.clear()
        self._room.set()
        return taken, self._load

    def _note_news(self) -> None:
        self._outputs.set()
        if len(self._pending) >= _MAX_PENDING:
            self._room.clear()


OnEnd = Callable[[SequenceRequest, Update], None]
"""Is told of each sequence that ended, and its last outputs."""


class Worker(Protocol):
    """What the dispatcher needs of the backend."""

    def submit(self, request: SequenceRequest) -> None: ...
    def cancel(self, key: SequenceKey) -> None: ...
    def drop_stream(self, stream_id: int) -> None: ...


def _nothing(_request: SequenceRequest, _last: Update) -> None: ...


class Stream:
    """One Execute stream: its outbox and its living sequences, by number."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.outbox = Outbox()
        self.living: dict[int, SequenceRequest] = {}
        self._quiet = asyncio.Event()
        self._quiet.set()

    def begin(self, request: SequenceRequest) -> None:
        self.living[request.key[1]] = request
        self._quiet.clear()

    def end(self, sequence_id: int) -> SequenceRequest:
        request = self.living.pop(sequence_id)
        if not self.living:
            self._quiet.set()
        return request

    async def none_living(self) -> None:
        await self._quiet.wait()


class Dispatcher:
    """Used on the event loop only."""

    def __init__(self, worker: Worker, admission: Admission, *, on_end: OnEnd = _nothing) -> None:
        self._worker = worker
        self._on_end = on_end
        self._admission = admission
        self._streams: dict[int, Stream] = {}
        self._stream_ids = itertools.count(1)
        self._empty = asyncio.Event()
        self._empty.set()

    def open_stream(self) -> Stream:
        stream = Stream(next(self._stream_ids))
        self._streams[stream.stream_id] = stream
        if self._admission.draining and not self._admission.held:
            stream.outbox.close()
        return stream

    def close_stream(self, stream: Stream) -> None:
        """Drops its sequences within one step."""
        del self._streams[stream.stream_id]
        if stream.living:
            self._worker.drop_stream(stream.stream_id)
        for sequence_id in list(stream.living):
            self._release(stream, sequence_id)

    def submit(self, stream: Stream, request: SequenceRequest) -> None:
        """Raises: InvalidArgument, QueueFull, EngineDraining; then nothing was taken."""
        sequence_id = request.key[1]
        if sequence_id in stream.living:
            raise InvalidArgument(
                f"sequence_id {sequence_id} is in use on this stream; count on", field="sequence_id"
            )
        self._admission.take(request, time.monotonic())
        self._empty.clear()
        stream.begin(request)
        self._worker.submit(request)

    def refuse(self, stream: Stream, sequence_id: int, error: MeshError) -> None:
        """Answers a command that was not taken."""
        self.answer(stream, Update(sequence_id, error=error))

    def answer(self, stream: Stream, update: Update) -> None:
        """Tells the end of a sequence that never took a place."""
        stream.outbox.put_apart(update)

    def cancel(self, stream: Stream, sequence_id: int) -> None:
        if sequence_id in stream.living:
            self._worker.cancel((stream.stream_id, sequence_id))

    def deliver(self, outputs: StepOutputs, load: Load) -> None:
        """Takes one turn's outputs from the backend."""
        for stream_id, updates in outputs.items():
            stream = self._streams.get(stream_id)
            if stream is None:
                continue
            stream.outbox.put(updates, load)
            for update in updates:
                if update.last:
                    self._on_end(self._release(stream, update.sequence_id), update)

    def tell_load(self, load: Load) -> None:
        """Tells every stream: one without outputs would go on with what it was last told."""
        for stream in self._streams.values():
            stream.outbox.put([], load)

    async def drain(self, grace_s: float) -> None:
        """Takes nothing new, lets what runs finish for at most grace_s, then ends the streams."""
        self._admission.set_draining()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            pass
        for stream in self._streams.values():
            stream.outbox.close()

    def _release(self, stream: Stream, sequence_id: int) -> SequenceRequest:
        request = stream.end(sequence_id)
        self._admission.release(request, time.monotonic())
        if not self._admission.held:
            self._empty.set()
        return request
