"""The Execute stream to one engine; it multiplexes all sequences of this process."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from grpc import aio

from mlxmesh.engine.v1.engine_pb2_grpc import EngineServiceStub
from mlxmesh_generation.placement import convert
from mlxmesh_generation.placement.encode_work import EncodedPart, EncodeWork
from mlxmesh_generation.placement.router import FOREGROUND_WEIGHT, EngineLoad, Replica
from mlxmesh_generation.placement.sequence import EngineSequence, SequenceRequest, SequenceSink
from mlxmesh_shared.errors import EngineLost, Internal, MeshError, ServiceUnavailable
from mlxmesh_shared.resilience.retries import RetryDelayEstimator
from mlxmesh_shared.rpc.channels import (
    WATCH_TIMEOUTS,
    OpenChannel,
    cancel_requests,
    open_channel,
    wait_ready,
)

CONNECT_TIMEOUT_S = 5.0
RECONNECT_S = 0.1
# A busy engine reports its load every 0.3 s: after a second of silence, it or the network is stuck.
LIVENESS_TIMEOUT_S = 1.0
_TICK_S = 0.1
# About two steps of many sequences. When this process is slow, further output stays in the engine,
# which merges it into fewer, larger messages.
WINDOW_BYTES = 4096

_log = logging.getLogger(__name__)


class _LinkedSequence:
    """Satisfies EngineSequence."""

    def __init__(self, link: "EngineLink", sequence_id: int) -> None:
        self._link = link
        self._sequence_id = sequence_id

    @property
    def engine_id(self) -> str:
        return self._link.engine_id

    def running_on(self, link: "EngineLink") -> int | None:
        """Its id, if it is a running sequence of this link."""
        return self._sequence_id if link is self._link and link.runs(self._sequence_id) else None

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
        background_retry_delays: RetryDelayEstimator | None = None,
    ) -> None:
        """`retry_delays` count starts and ends; links to engines of one version share them."""
        self.engine_id = engine_id
        self.address = address
        self._sinks: dict[int, SequenceSink] = {}
        self._spare: set[int] = set()
        self._background: set[int] = set()
        self._worked_s = 0.0
        self._next_id = 1
        self._on_connected = on_connected
        self._open = open_
        self._retry_delays = retry_delays or RetryDelayEstimator()
        self._background_retry_delays = background_retry_delays or RetryDelayEstimator()
        self._load = EngineLoad()
        self._own_at_report = 0
        self._own_background_at_report = 0
        self._outbox: deque[Any] = deque()
        self._has_outgoing = asyncio.Event()
        self._retired = False
        self._finished = asyncio.Event()
        self._silent_ticks = 0
        self._is_busy = asyncio.Event()
        self._encodes: dict[Any, int] = {}
        self._own_encodes_at_report = 0
        self._calls: aio.Channel | None = None
        self.connected = False

    def replica(self, ejected: bool = False) -> Replica:
        """The router's view: the reported load of other processes plus our own sequences now.

        Spare sequences do not count: they end before another one is submitted. Nor do background
        sequences, which wait for others.
        """
        load = self._load
        return Replica(
            engine_id=self.engine_id,
            connected=self.connected,
            outstanding=self._outstanding,
            capacity=load.capacity,
            has_memory=load.has_memory or bool(self._spare),
            ejected=ejected,
        )

    @property
    def adapters(self) -> frozenset[str]:
        """The digests of the adapters that the engine holds."""
        return self._load.adapters

    def background_replica(self, ejected: bool = False) -> Replica:
        """The router's view for a background sequence: full once too many of them are there."""
        load, background = self._load, self._all_background
        foreground = FOREGROUND_WEIGHT * self._outstanding
        return Replica(
            engine_id=self.engine_id,
            connected=self.connected,
            outstanding=foreground + background,
            capacity=None if load.capacity is None else foreground + load.capacity,
            ejected=ejected,
        )

    def encoder_replica(self, ejected: bool = False) -> Replica:
        """The router's view for texts to encode: the texts of this process and the other calls.

        Only the engine knows when it is full.
        """
        load, own = self._load, self._own_at_report + self._own_encodes_at_report
        others = max(0, load.running + load.waiting - own)
        return Replica(
            engine_id=self.engine_id,
            connected=self.connected,
            outstanding=others + len(self._sinks) + self._encoding,
            ejected=ejected,
        )

    async def encode(self, work: EncodeWork, timeout_s: float | None) -> EncodedPart:
        """Has the engine encode texts. Raises: EngineLost with the stream, the engine's errors."""
        if self._calls is None:
            # Not that of the stream: its window is too small for many vectors.
            self._calls = self._open(self.address, role="engine", timeouts=WATCH_TIMEOUTS)
        message = convert.encode_message(work, timeout_s)
        call = EngineServiceStub(self._calls).Encode(
            message, timeout=timeout_s, metadata=work.metadata
        )
        self._note_busy()
        self._encodes[call] = len(work.inputs)
        try:
            return convert.encoded_part(await call)
        except asyncio.CancelledError:
            if cancel_requests():
                raise
            raise _lost() from None
        except ServiceUnavailable as error:
            # The engine's own errors have a reason; this one is gRPC's, of a broken connection.
            raise (_lost() if type(error) is ServiceUnavailable else error) from error
        finally:
            call.cancel()
            del self._encodes[call]
            self._worked_s = time.monotonic()
            self._note_idle()
            self._finish_if_done()

    @property
    def _encoding(self) -> int:
        """The texts that it encodes for this process."""
        return sum(self._encodes.values())

    def submit(
        self, request: SequenceRequest, sink: SequenceSink, *, spare: bool = False
    ) -> EngineSequence:
        """spare: it runs only while no caller's sequence does."""
        sequence_id = self._next_id
        message = convert.submit_message(
            request, sequence_id, self._shared(request.shares_prefill_of)
        )
        self._next_id += 1
        self._note_busy()
        self._sinks[sequence_id] = sink
        if spare:
            self._spare.add(sequence_id)
        if request.request.flex:
            self._background.add(sequence_id)
        self._delays_of(sequence_id).acquire(time.monotonic())
        self._send(message)
        return _LinkedSequence(self, sequence_id)

    @property
    def _others(self) -> int:
        """The sequences of other processes, when the engine last reported."""
        return max(0, self._load.running + self._load.waiting - self._own_at_report)

    @property
    def _outstanding(self) -> int:
        """The sequences of callers, without background ones."""
        return self._others + len(self._sinks) - len(self._spare) - len(self._background)

    @property
    def _other_background(self) -> int:
        return max(0, self._load.background - self._own_background_at_report)

    @property
    def _all_background(self) -> int:
        return self._other_background + len(self._background)

    def _delays_of(self, sequence_id: int) -> RetryDelayEstimator:
        background = sequence_id in self._background
        return self._background_retry_delays if background else self._retry_delays

    def idle_s(self, now_s: float) -> float:
        """For how long there has been no sequence of a caller, not even a background one."""
        busy = self._outstanding or self._all_background or self._encodes
        return 0.0 if busy else now_s - self._worked_s

    @property
    def running(self) -> bool:
        """Whether it has work of this process."""
        return bool(self._sinks or self._encodes)

    def runs(self, sequence_id: int) -> bool:
        """Whether the sequence is submitted and has not ended."""
        return sequence_id in self._sinks

    def _shared(self, other: EngineSequence | None) -> int | None:
        return other.running_on(self) if isinstance(other, _LinkedSequence) else None

    def cancel(self, sequence_id: int) -> None:
        if sequence_id not in self._sinks:
            return
        # One message for many clients that leave at once: one each would cost most of the time.
        if not self._outbox or not convert.add_to_cancel(self._outbox[-1], sequence_id):
            self._send(convert.cancel_message(sequence_id))

    def drop(self, sequence_id: int) -> None:
        self.cancel(sequence_id)
        self._end(sequence_id)
        self._finish_if_done()

    def retire(self) -> None:
        """Accepts no more sequences; run() returns when those that run have ended."""
        self._retired = True
        self._finish_if_done()

    async def run(self) -> None:
        """Keeps the stream open and reopens it when it breaks, until retired and idle."""
        channel = self._open(
            self.address, role="engine", window_bytes=WINDOW_BYTES, timeouts=WATCH_TIMEOUTS
        )
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
            if self._calls is not None:
                await self._calls.close()

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
            raise EngineLost(
                f"{self.engine_id} sent nothing for {LIVENESS_TIMEOUT_S:g} s"
            ) from None
        finally:
            watchdog.cancel()
            writer.cancel()
            # Reading the stream reports how it ended.
            with suppress(MeshError, asyncio.CancelledError):
                await writer
            call.cancel()

    async def _watch(self, call: Any) -> None:
        """Cancels a stream that is silent for too long while it connects or has sequences.

        Counts ticks instead of time, so a freeze of this process does not count as silence.
        """
        self._silent_ticks = 0
        while self._silent_ticks * _TICK_S < LIVENESS_TIMEOUT_S:
            if self.connected:
                await self._is_busy.wait()
            await asyncio.sleep(_TICK_S)
            self._silent_ticks += 1
        _log.warning("%s stopped sending; other engines resume its sequences", self.engine_id)
        call.cancel()

    async def _write(self, call: Any) -> None:
        while True:
            await self._has_outgoing.wait()
            self._has_outgoing.clear()
            while self._outbox:
                await call.write(self._outbox.popleft())

    def _send(self, message: Any) -> None:
        self._outbox.append(message)
        self._has_outgoing.set()

    def _dispatch(self, response: Any) -> None:
        for message in response.outputs:
            sequence_id = message.sequence_id
            # The engine may send outputs of a sequence that was dropped here meanwhile.
            if (sink := self._sinks.get(sequence_id)) is not None:
                self._deliver(sink, sequence_id, message)
        if response.HasField("load"):
            if self._others or self._other_background:
                self._worked_s = time.monotonic()
            self._load = convert.engine_load(response.load)
            self._own_background_at_report = len(self._background)
            self._own_at_report = len(self._sinks) - len(self._background)
            self._own_encodes_at_report = len(self._encodes)
        self._finish_if_done()

    def _deliver(self, sink: SequenceSink, sequence_id: int, message: Any) -> None:
        try:
            output = convert.engine_output(message)
            if output.finish_reason is not None or output.failure is not None:
                self._end(sequence_id, refused=output.failure is not None)
            sink.on_output(output)
        except Exception:  # noqa: BLE001 an error in one sequence must not end the stream of others
            _log.exception("a generation failed on an engine's output")
            self.drop(sequence_id)
            sink.on_lost(Internal("the generation failed; see the log of generation"))

    def _disconnect(self) -> None:
        self.connected = False
        self._outbox.clear()
        self._load = EngineLoad()
        self._own_at_report = self._own_background_at_report = 0
        self._own_encodes_at_report = 0
        for call in self._encodes:
            call.cancel()
        lost = list(self._sinks.values())
        for sequence_id in list(self._sinks):
            self._end(sequence_id, refused=True)
        for sink in lost:
            sink.on_lost(_lost())
        self._finish_if_done()

    def _end(self, sequence_id: int, *, refused: bool = False) -> None:
        if self._sinks.pop(sequence_id, None) is not None:
            now_s = time.monotonic()
            if sequence_id in self._spare:
                self._spare.discard(sequence_id)
            else:
                self._worked_s = now_s
            self._delays_of(sequence_id).release(now_s, counts=not refused)
            self._background.discard(sequence_id)
            self._note_idle()

    def _note_busy(self) -> None:
        """Work begins, so that silence counts from now on."""
        if not self.running:
            self._silent_ticks = 0
            self._is_busy.set()

    def _note_idle(self) -> None:
        if not self.running:
            self._is_busy.clear()

    def _finish_if_done(self) -> None:
        if self._retired and not self.running:
            self._finished.set()


def _lost() -> EngineLost:
    return EngineLost("the engine was lost while it worked on this; try again")
