"""The one Execute stream to one engine, all of this process's sequences multiplexed on it."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from grpc import aio

from mlxmesh.engine.v1.engine_pb2 import (
    Cancel,
    EngineLoad,
    ExecuteRequest,
    ExecuteResponse,
    SequenceOutput,
    Submit,
)
from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_generation.placement.router import Replica
from mlxmesh_generation.placement.sequence import EngineSequence, SequenceSink
from mlxmesh_shared.errors import EngineLost, Internal, MeshError
from mlxmesh_shared.resilience.retries import RetryDelayEstimator
from mlxmesh_shared.rpc.channels import OpenChannel, cancel_requests, open_channel, wait_ready

CONNECT_TIMEOUT_S = 5.0
RECONNECT_S = 0.1
# An engine tells its load every 0.3 s: after a second of silence, it or the way to it is frozen.
SILENT_S = 1.0
_TICK_S = 0.1
# About two steps of many sequences. More would wait here unread when this process is behind; in the
# engine it joins into fewer, larger outputs.
WINDOW_BYTES = 4096
# The contract's limit.
MAX_CANCELLED_TOGETHER = 4096

_log = logging.getLogger(__name__)


class _LinkedSequence:
    """Satisfies EngineSequence."""

    def __init__(self, link: "EngineLink", sequence_id: int) -> None:
        self._link = link
        self._sequence_id = sequence_id

    @property
    def engine_id(self) -> str:
        return self._link.engine_id

    def cancel(self) -> None:
        self._link.cancel(self._sequence_id)

    def drop(self) -> None:
        self._link.drop(self._sequence_id)


class EngineLink:
    """Owned by `Engines`, which runs it in a task of its own."""

    def __init__(
        self,
        *,
        engine_id: str,
        address: str,
        on_connected: Callable[[], None] = lambda: None,
        open_: OpenChannel = open_channel,
        retry_delays: RetryDelayEstimator | None = None,
    ) -> None:
        """`retry_delays`, which links to like engines may share, learns what begins and ends."""
        self.engine_id = engine_id
        self.address = address
        self._sinks: dict[int, SequenceSink] = {}
        self._next_id = 1
        self._on_connected = on_connected
        self._open = open_
        self._retry_delays = retry_delays or RetryDelayEstimator()
        self._load = EngineLoad()
        self._own_at_report = 0
        self._outbox: deque[ExecuteRequest] = deque()
        self._has_outgoing = asyncio.Event()
        self._retired = False
        self._finished = asyncio.Event()
        self._silent_ticks = 0
        self.connected = False

    def replica(self) -> Replica:
        """How the router sees this engine: what others gave it as last reported, ours as of now."""
        load = self._load
        others = max(0, load.running + load.waiting - self._own_at_report)
        return Replica(
            engine_id=self.engine_id,
            connected=self.connected,
            outstanding=others + len(self._sinks),
            capacity=load.max_running + load.max_waiting or None,
            has_memory=_has_memory(load),
        )

    def submit(self, submit: Submit, sink: SequenceSink) -> EngineSequence:
        """Sends a sequence off; takes over `submit` and gives it its number."""
        sequence_id = submit.sequence_id = self._next_id
        self._next_id += 1
        self._sinks[sequence_id] = sink
        self._retry_delays.acquire(time.monotonic())
        self._send(ExecuteRequest(submit=submit))
        return _LinkedSequence(self, sequence_id)

    def cancel(self, sequence_id: int) -> None:
        if sequence_id not in self._sinks:
            return
        # When a crowd of clients leaves at once, a message for each would take most of the time.
        if self._outbox and _has_room(cancel := self._outbox[-1].cancel):
            cancel.sequence_ids.append(sequence_id)
        else:
            self._send(ExecuteRequest(cancel=Cancel(sequence_ids=[sequence_id])))

    def drop(self, sequence_id: int) -> None:
        self.cancel(sequence_id)
        self._end(sequence_id)
        self._finish_if_done()

    def retire(self) -> None:
        """Lets what runs go on, after which run() returns."""
        self._retired = True
        self._finish_if_done()

    async def run(self) -> None:
        """Keeps the stream open, opening it again whenever it breaks, until retired and idle."""
        channel = self._open(self.address, role="engine", window_bytes=WINDOW_BYTES)
        keeping = asyncio.create_task(self._keep_open(channel))
        finished = asyncio.create_task(self._finished.wait())
        try:
            await asyncio.wait((keeping, finished), return_when=asyncio.FIRST_COMPLETED)
        finally:
            keeping.cancel()
            finished.cancel()
            with suppress(asyncio.CancelledError):
                await keeping
            await channel.close()

    async def _keep_open(self, channel: aio.Channel) -> None:
        while True:
            try:
                await wait_ready(channel, CONNECT_TIMEOUT_S)
                await self._converse(channel)
            except MeshError as error:
                _log.debug("the stream to %s ended: %s", self.engine_id, error.reason)
            finally:
                self._disconnect()
            await asyncio.sleep(RECONNECT_S)

    async def _converse(self, channel: aio.Channel) -> None:
        call = EngineServiceStub(channel).Execute()
        writer = asyncio.create_task(self._write(call))
        watchdog = asyncio.create_task(self._watch(call))
        try:
            async for response in call:
                self._silent_ticks = 0
                if not self.connected:
                    self.connected = True
                    self._on_connected()
                self._dispatch(response)
        except asyncio.CancelledError:
            if cancel_requests():
                raise
            raise EngineLost(f"{self.engine_id} said nothing for {SILENT_S:g} s") from None
        finally:
            watchdog.cancel()
            writer.cancel()
            # How the stream ended is told by reading it.
            with suppress(MeshError, asyncio.CancelledError):
                await writer
            call.cancel()

    async def _watch(self, call: Any) -> None:
        """Ends a stream on which nothing is heard.

        It counts ticks: time that this process itself spent frozen is not held against the engine.
        """
        self._silent_ticks = 0
        while self._silent_ticks * _TICK_S < SILENT_S:
            await asyncio.sleep(_TICK_S)
            self._silent_ticks += 1
        _log.warning("%s says nothing any more; its sequences go elsewhere", self.engine_id)
        call.cancel()

    async def _write(self, call: Any) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            while self._outbox:
                await call.write(self._outbox.popleft())

    def _send(self, request: ExecuteRequest) -> None:
        self._outbox.append(request)
        self._has_outgoing.set()

    def _dispatch(self, response: ExecuteResponse) -> None:
        for output in response.outputs:
            ends = output.finish_reason != 0 or output.HasField("failure")
            # One that was dropped here may still get the outputs that were under way.
            if (sink := self._sinks.get(output.sequence_id)) is not None:
                if ends:
                    self._end(output.sequence_id, refused=output.HasField("failure"))
                self._deliver(sink, output)
        if response.HasField("load"):
            self._load = response.load
            self._own_at_report = len(self._sinks)
        self._finish_if_done()

    def _deliver(self, sink: SequenceSink, output: SequenceOutput) -> None:
        try:
            sink.on_output(output)
        except Exception:  # noqa: BLE001 one sequence's trouble must not end the others' stream
            _log.exception("a generation failed on an engine's output")
            self.drop(output.sequence_id)
            sink.on_lost(Internal("the generation failed; see the log of generation"))

    def _disconnect(self) -> None:
        self.connected = False
        self._outbox.clear()
        self._load, self._own_at_report = EngineLoad(), 0
        lost = list(self._sinks.values())
        for sequence_id in list(self._sinks):
            self._end(sequence_id, refused=True)
        for sink in lost:
            sink.on_lost(EngineLost("the engine was lost while it worked on this; try again"))
        self._finish_if_done()

    def _end(self, sequence_id: int, *, refused: bool = False) -> None:
        if self._sinks.pop(sequence_id, None) is not None:
            self._retry_delays.release(time.monotonic(), counts=not refused)

    def _finish_if_done(self) -> None:
        if self._retired and not self._sinks:
            self._finished.set()


def _has_room(cancel: Cancel) -> bool:
    """Whether it is a command to cancel, and takes more."""
    return 0 < len(cancel.sequence_ids) < MAX_CANCELLED_TOGETHER


def _has_memory(load: EngineLoad) -> bool:
    """What waits may promise as many times the memory as it may take places."""
    if not load.kv_capacity_bytes or not load.max_running:
        return True
    most_bytes = load.kv_capacity_bytes * (1 + load.max_waiting / load.max_running)
    return load.kv_reserved_bytes < most_bytes
