"""Connects Execute streams and the backend: admits sequences, delivers outputs, drains."""

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
from mlxmesh_engine.service.outbox import Outbox
from mlxmesh_shared.errors import InvalidArgument, MeshError

OnEnd = Callable[[SequenceRequest, Update], None]
"""Called for each sequence that ended, with its last update."""


class Worker(Protocol):
    """The commands that the dispatcher sends to the backend."""

    def submit(self, request: SequenceRequest) -> None: ...
    def cancel(self, key: SequenceKey) -> None: ...
    def drop_stream(self, stream_id: int) -> None: ...


def _ignore(_request: SequenceRequest, _last: Update) -> None: ...


class Stream:
    """One Execute stream: its outbox and its active sequences by id."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.outbox = Outbox()
        self.active: dict[int, SequenceRequest] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, request: SequenceRequest) -> None:
        self.active[request.key[1]] = request
        self._idle.clear()

    def remove(self, sequence_id: int) -> SequenceRequest:
        request = self.active.pop(sequence_id)
        if not self.active:
            self._idle.set()
        return request

    async def wait_idle(self) -> None:
        """Returns once no sequence is active."""
        await self._idle.wait()


class Dispatcher:
    """Used on the event loop only."""

    def __init__(self, worker: Worker, admission: Admission, *, on_end: OnEnd = _ignore) -> None:
        self._worker = worker
        self._on_end = on_end
        self._admission = admission
        self._streams: dict[int, Stream] = {}
        self._stream_ids = itertools.count(1)
        self._empty = asyncio.Event()
        self._empty.set()
        self._busy = asyncio.Event()

    def open_stream(self) -> Stream:
        stream = Stream(next(self._stream_ids))
        self._streams[stream.stream_id] = stream
        if self._admission.draining and not self._admission.admitted:
            stream.outbox.close()
        return stream

    def close_stream(self, stream: Stream) -> None:
        """Drops the stream's sequences within one step."""
        del self._streams[stream.stream_id]
        if stream.active:
            self._worker.drop_stream(stream.stream_id)
        for sequence_id in list(stream.active):
            self._release(stream, sequence_id)

    def submit(self, stream: Stream, request: SequenceRequest) -> None:
        """Raises: InvalidArgument, QueueFull, EngineDraining; the request is then not admitted."""
        sequence_id = request.key[1]
        if sequence_id in stream.active:
            raise InvalidArgument(
                f"sequence_id {sequence_id} is in use on this stream; use a new one",
                field="sequence_id",
            )
        self._admission.acquire(request, time.monotonic())
        self._empty.clear()
        self._busy.set()
        stream.add(request)
        self._worker.submit(request)

    def reject(self, stream: Stream, sequence_id: int, error: MeshError) -> None:
        """Answers a command that was refused."""
        self.finish(stream, Update(sequence_id, error=error))

    def finish(self, stream: Stream, last: Update) -> None:
        """Ends a sequence that was never admitted."""
        stream.outbox.put_unmerged(last)

    def cancel(self, stream: Stream, sequence_id: int) -> None:
        if sequence_id in stream.active:
            self._worker.cancel((stream.stream_id, sequence_id))

    def deliver(self, outputs: StepOutputs, load: Load) -> None:
        """Forwards one step's outputs to their streams."""
        for stream_id, updates in outputs.items():
            stream = self._streams.get(stream_id)
            if stream is None:
                continue
            stream.outbox.put(updates, load)
            for update in updates:
                if update.last:
                    self._on_end(self._release(stream, update.sequence_id), update)

    def publish_load(self, load: Load) -> None:
        """Sends the load to every stream: without outputs, its last known load gets stale."""
        for stream in self._streams.values():
            stream.outbox.put([], load)

    async def wait_busy(self) -> None:
        """Returns once a sequence is admitted."""
        await self._busy.wait()

    async def drain(self, grace_s: float) -> None:
        """Admits nothing more, waits up to grace_s for admitted sequences, ends the streams."""
        self._admission.set_draining()
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            pass
        for stream in self._streams.values():
            stream.outbox.close()

    def _release(self, stream: Stream, sequence_id: int) -> SequenceRequest:
        request = stream.remove(sequence_id)
        self._admission.release(request, time.monotonic())
        if not self._admission.admitted:
            self._empty.set()
            self._busy.clear()
        return request
