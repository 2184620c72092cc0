"""Connects Execute streams and the backend: admits sequences, delivers outputs, drains."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from mlxmesh_engine.encoder.inputs import EncodeCall
from mlxmesh_engine.scheduling.capacity import Admission, Admitted
from mlxmesh_engine.scheduling.request import (
    ConstraintState,
    FinishReason,
    Load,
    SequenceKey,
    SequenceRequest,
    StepOutputs,
    Timings,
    Update,
)
from mlxmesh_engine.service.outbox import Outbox
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    FeatureNotSupported,
    Internal,
    InvalidArgument,
    MeshError,
)

_log = logging.getLogger(__name__)

OnEnd = Callable[[SequenceRequest, Update], None]
"""Called for each sequence that ended, with its last update."""


class Worker(Protocol):
    """The commands that the dispatcher sends to the backend."""

    def submit(self, request: SequenceRequest) -> None: ...
    def cancel(self, key: SequenceKey) -> None: ...
    def drop_stream(self, stream_id: int) -> None: ...


class Encodes(Protocol):
    """Encodes calls."""

    async def encode(self, call: EncodeCall) -> None:
        """Returns when every input of the call has its result.

        Raises: QueueFull, DeadlineExceeded, Internal.
        """
        ...


class Compiler(Protocol):
    """Compiles constraints off the event loop."""

    async def walker(self, request: SequenceRequest) -> ConstraintState:
        """The state of a request's constraint after its `generated`. Raises: MeshError."""
        ...


class Images(Protocol):
    """Reads the images of prompts off the event loop."""

    async def prepare(self, request: SequenceRequest) -> SequenceRequest:
        """The request with its images in its prompt. Raises: MeshError."""
        ...


def _ignore(_request: SequenceRequest, _last: Update) -> None: ...


class Stream:
    """One Execute stream: its outbox and its active sequences by id."""

    def __init__(self, stream_id: int) -> None:
        self.stream_id = stream_id
        self.outbox = Outbox()
        self.active: dict[int, SequenceRequest] = {}
        self.preparing: dict[int, asyncio.Task[None]] = {}
        """Those of the active sequences that have not reached the backend yet."""
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
        self.compiler: Compiler | None = None
        """None if the backend cannot constrain its output."""
        self.images: Images | None = None
        """None if the model does not see."""

    def open_stream(self) -> Stream:
        stream = Stream(next(self._stream_ids))
        self._streams[stream.stream_id] = stream
        if self._admission.draining and not self._admission.admitted:
            stream.outbox.close()
        return stream

    def close_stream(self, stream: Stream) -> None:
        """Drops the stream's sequences within one step."""
        del self._streams[stream.stream_id]
        for task in stream.preparing.values():
            task.cancel()
        if len(stream.active) > len(stream.preparing):
            self._worker.drop_stream(stream.stream_id)
        for sequence_id in list(stream.active):
            self._release(stream, sequence_id)

    def submit(self, stream: Stream, request: SequenceRequest) -> None:
        """Admits a request; it reaches the backend once its constraint is compiled and its images
        are read.

        Raises: InvalidArgument, QueueFull, EngineDraining; the request is then not admitted.
        """
        sequence_id = request.key[1]
        if sequence_id in stream.active:
            raise InvalidArgument(
                f"sequence_id {sequence_id} is in use on this stream; use a new one",
                field="sequence_id",
            )
        if request.constraint is not None and self.compiler is None:
            raise FeatureNotSupported(
                "this engine's backend cannot constrain its output; use one that loads weights",
                field="constraint",
            )
        self._admit(request)
        stream.add(request)
        if request.constraint is None and not request.image_files:
            self._worker.submit(request)
            return
        shared = request.shares_prefill_of
        first = stream.preparing.get(shared[1]) if shared is not None else None
        task = asyncio.create_task(self._prepare(stream, request, after=first))
        stream.preparing[sequence_id] = task

    def reject(self, stream: Stream, sequence_id: int, error: MeshError) -> None:
        """Answers a command that was refused."""
        self.finish(stream, Update(sequence_id, error=error))

    def finish(self, stream: Stream, last: Update) -> None:
        """Ends a sequence that was never admitted."""
        stream.outbox.put_unmerged(last)

    def cancel(self, stream: Stream, sequence_id: int) -> None:
        if (task := stream.preparing.pop(sequence_id, None)) is not None:
            task.cancel()
            self._end_early(stream, Update(sequence_id, finish_reason=FinishReason.CANCELLED))
        elif sequence_id in stream.active:
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

    async def encode(self, call: EncodeCall, encoder: Encodes) -> None:
        """Has a call encoded; it counts as admitted until then.

        Raises: QueueFull, EngineDraining, DeadlineExceeded, Internal.
        """
        self._admit(call)
        try:
            await encoder.encode(call)
        finally:
            self._leave(call)

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

    async def _prepare(
        self, stream: Stream, request: SequenceRequest, *, after: asyncio.Task[None] | None
    ) -> None:
        """Submits a request once it is prepared, and after the one whose prefill it shares; whoever
        cancels this has ended the sequence.
        """
        sequence_id = request.key[1]
        last = None
        try:
            prepared = await _within_deadline(self._prepared(request), request)
            if after is not None:
                await asyncio.wait([after])
            self._admission.replace(request, prepared)
            stream.active[sequence_id] = prepared
            if (reason := prepared.complete) is not None:
                tokens = len(prepared.prompt)
                last = Update(
                    sequence_id, accepted=True, prompt_tokens=tokens, finish_reason=reason
                )
            else:
                self._worker.submit(prepared)
        except MeshError as error:
            last = Update(sequence_id, error=error)
        except Exception:  # noqa: BLE001 - the sequence must end
            _log.exception("the constraint or the images of a sequence failed")
            last = Update(
                sequence_id, error=Internal("the engine failed on this constraint, or these images")
            )
        del stream.preparing[sequence_id]
        if last is not None:
            self._end_early(stream, last)

    async def _prepared(self, request: SequenceRequest) -> SequenceRequest:
        """Raises: MeshError."""
        if request.image_files:
            assert self.images is not None
            request = await self.images.prepare(request)
        if request.constraint is not None:
            assert self.compiler is not None
            state = await self.compiler.walker(request)
            request = replace(request, constraint_state=state)
        return request

    def _end_early(self, stream: Stream, last: Update) -> None:
        """Ends an admitted sequence that has not reached the backend."""
        request = self._release(stream, last.sequence_id)
        queue_ms = (time.monotonic() - request.submitted_s) * 1e3
        last = replace(last, timings=Timings(queue_ms, prefill_ms=0.0, decode_ms=0.0))
        stream.outbox.put_unmerged(last)
        self._on_end(request, last)

    def _release(self, stream: Stream, sequence_id: int) -> SequenceRequest:
        request = stream.remove(sequence_id)
        self._leave(request)
        return request

    def _admit(self, request: Admitted) -> None:
        """Raises: QueueFull, EngineDraining."""
        self._admission.acquire(request, time.monotonic())
        self._empty.clear()
        self._busy.set()

    def _leave(self, request: Admitted) -> None:
        self._admission.release(request, time.monotonic())
        if not self._admission.admitted:
            self._empty.set()
            self._busy.clear()


async def _within_deadline(
    preparing: Awaitable[SequenceRequest], request: SequenceRequest
) -> SequenceRequest:
    """Raises: DeadlineExceeded."""
    remaining_s = None
    if request.deadline_s is not None:
        remaining_s = max(0.0, request.deadline_s - time.monotonic())
    try:
        async with asyncio.timeout(remaining_s):
            return await preparing
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed; allow more time") from None
