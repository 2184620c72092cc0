"""The thread that uses MLX for an encoder model: loads it, then computes batch after batch."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlxmesh_engine.encoder.inputs import EncodeCall
from mlxmesh_engine.encoder.loader import LoadedEncoder
from mlxmesh_engine.encoder.queue import BatchSize, EncodeQueue, Place
from mlxmesh_engine.scheduling.request import Load, SequenceKey, SequenceRequest
from mlxmesh_engine.service.backend import Deliver
from mlxmesh_engine.service.loop_calls import call_on, fail, succeed
from mlxmesh_engine.service.mlx_cleanup import mlx_released
from mlxmesh_engine.service.telemetry import TokenRate
from mlxmesh_shared.errors import (
    DeadlineExceeded,
    Internal,
    MeshError,
    QueueFull,
)

_log = logging.getLogger(__name__)

_BATCHES_BETWEEN_CACHE_CLEARS = 64
# If so many inputs fail alone without a success in between, the engine itself is broken.
_MAX_CONSECUTIVE_FAILURES = 8
MAX_QUEUED_TOKENS = 2**24
"""Inputs of all calls together; one call is always accepted."""
_GATHER_S = 0.001


class _Abandoned(Exception):
    """Nobody waits for the batch that is being computed."""


class EncoderThread:
    """A backend that encodes; see the ports `Backend` and `Encoder`.

    `dead` fails with the error that ended the thread; it never ends silently.
    """

    def __init__(
        self,
        load_model: Callable[[], LoadedEncoder],
        *,
        max_running: int = 64,
        max_waiting: int = 256,
        batch_size: BatchSize | None = None,
    ) -> None:
        self._load_model = load_model
        self._limits = max_running, max_waiting
        self._size = batch_size or BatchSize()
        self._arrived: queue.SimpleQueue[EncodeCall | None] = queue.SimpleQueue()
        self._queue = EncodeQueue()
        self._calls: dict[EncodeCall, asyncio.Future[None]] = {}
        self._started: set[EncodeCall] = set()
        self._queued_tokens = 0
        self._rate = TokenRate()
        self._last_progress_s = time.monotonic()
        self._idle_since_s: float | None = self._last_progress_s
        self._waits = False
        self._failures = 0
        self.steps = 0
        self.prompt_tokens = 0
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        self._event_loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[LoadedEncoder] = self._event_loop.create_future()
        self.dead: asyncio.Future[None] = self._event_loop.create_future()

    # On the event loop.

    async def start(self, deliver: Deliver) -> LoadedEncoder:
        """Loads the model and starts. Raises: whatever loading raises."""
        self._thread.start()
        try:
            return await self._loaded
        except Exception:
            # Loading failed, so the thread ends: the process must not end before it.
            await asyncio.to_thread(self._thread.join)
            raise

    async def stop(self) -> None:
        """Ends the thread after the present batch; calls that wait are dropped."""
        self._put(None)
        await asyncio.to_thread(self._thread.join)

    async def encode(self, call: EncodeCall) -> None:
        """Returns when every input has its result; a caller that is cancelled drops the call.

        Raises: QueueFull, DeadlineExceeded, Internal.
        """
        if self._queued_tokens and self._queued_tokens + call.tokens > MAX_QUEUED_TOKENS:
            raise QueueFull(
                f"{self._queued_tokens} tokens wait on this engine; try again later",
                retry_delay_s=1.0,
            )
        done: asyncio.Future[None] = self._event_loop.create_future()
        self._calls[call] = done
        self._queued_tokens += call.tokens
        self._idle_since_s = None
        self._put(call)
        try:
            async with asyncio.timeout(_remaining_s(call)):
                await done
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed; allow more time") from None
        finally:
            call.ended = True
            self._queued_tokens -= call.tokens
            del self._calls[call]
            self._started.discard(call)
            if not self._calls:
                self._idle_since_s = time.monotonic()

    def submit(self, request: SequenceRequest) -> None:
        """Never called: the servicer refuses sequences of an encoder."""
        raise Internal("an encoder was asked to generate")

    def cancel(self, key: SequenceKey) -> None:
        """There are no sequences."""

    def drop_stream(self, stream_id: int) -> None:
        """There are no sequences."""

    @property
    def time_since_progress_s(self) -> float:
        """Time since a part of a batch ended, or since a call that the idle thread must take."""
        if self._waits and self._arrived.empty():
            return 0.0
        return time.monotonic() - self._last_progress_s

    @property
    def load(self) -> Load:
        """Counts calls: running are those with a computed input, or one in the present batch."""
        now_s = time.monotonic()
        foreground = [call for call in self._calls if not call.background]
        waiting = [call for call in foreground if call not in self._started]
        background = [call for call in self._calls if call.background]
        started = sum(call in self._started for call in background)
        return Load(
            running=len(foreground) - len(waiting),
            waiting=len(waiting),
            max_running=self._limits[0],
            max_waiting=self._limits[1],
            tokens_per_second=self._rate.per_second(now_s),
            prompt_tokens=self.prompt_tokens,
            background_running=started,
            background_waiting=len(background) - started,
            oldest_waiting_s=min((call.submitted_s for call in waiting), default=None),
            idle_since_s=self._idle_since_s,
        )

    def _put(self, call: EncodeCall | None) -> None:
        if self._waits and self._arrived.empty():
            # From now on the thread owes a batch.
            self._last_progress_s = time.monotonic()
        self._arrived.put(call)

    def _began(self, calls: set[EncodeCall]) -> None:
        self._started |= calls & self._calls.keys()

    def _computed(self, tokens: int, ended: list[EncodeCall]) -> None:
        """A batch was computed; these calls have all their results, or an error."""
        self._rate.add(time.monotonic(), tokens)
        for call in ended:
            done = self._calls.get(call)
            if done is None or done.done():
                continue
            if call.error is not None:
                done.set_exception(call.error)
            else:
                done.set_result(None)

    # On the MLX thread.

    @mlx_released()
    def _run(self) -> None:
        try:
            loaded = self._load_model()
        except BaseException as error:  # noqa: BLE001 - raised in `start`
            call_on(self._event_loop, fail, self._loaded, error)
            return
        call_on(self._event_loop, succeed, self._loaded, loaded)
        try:
            while self._take_arrived():
                self._step(loaded)
        except BaseException as error:  # noqa: BLE001 - the thread must never end silently
            _log.exception("the MLX thread died")
            call_on(self._event_loop, fail, self.dead, error)

    def _take_arrived(self) -> bool:
        """Takes the calls that arrived; waits for one if there are none. False at the end."""
        self._queue.drop_ended()
        calls: list[EncodeCall | None] = []
        if not self._queue:
            self._waits = True
            calls.append(self._arrived.get())
            self._waits = False
            time.sleep(_GATHER_S)
        with contextlib.suppress(queue.Empty):
            while True:
                calls.append(self._arrived.get_nowait())
        for call in calls:
            if call is None:
                return False
            if not call.ended:
                self._queue.add(call)
        return True

    def _step(self, loaded: LoadedEncoder) -> None:
        batch = self._queue.pop(self._size.tokens)
        if not batch:
            return
        call_on(self._event_loop, self._began, {place.call for place in batch})
        began_s = self._last_progress_s = time.monotonic()
        try:
            results = loaded.encode(
                [place.input for place in batch], lambda: self._progressed(batch)
            )
        except _Abandoned:
            return
        except Exception as error:  # noqa: BLE001 - the calls must end
            self._failed(batch, error)
            return
        self._failures = 0
        ended: list[EncodeCall] = []
        for place, result in zip(batch, results, strict=True):
            if not np.isfinite(result).all():
                place.call.error = Internal(
                    f"inputs[{place.index}]: its result is not finite in {loaded.dtype}; "
                    "load the model with dtype float32"
                )
                ended.append(place.call)
                continue
            place.call.put(place.index, result)
            if not place.call.missing:
                ended.append(place.call)
        self._finish(batch, ended, time.monotonic() - began_s)

    def _progressed(self, batch: list[Place]) -> None:
        """Raises: _Abandoned when nobody waits for any of the inputs."""
        self._last_progress_s = time.monotonic()
        if all(place.call.ended for place in batch):
            raise _Abandoned

    def _finish(self, batch: list[Place], ended: list[EncodeCall], duration_s: float) -> None:
        tokens = sum(place.length for place in batch)
        padded = max(place.length for place in batch) * len(batch)
        self._size.record(padded, duration_s)
        self._last_progress_s = time.monotonic()
        self.steps += 1
        self.prompt_tokens += tokens
        if self.steps % _BATCHES_BETWEEN_CACHE_CLEARS == 0:
            mx.clear_cache()
        call_on(self._event_loop, self._computed, tokens, ended)

    def _failed(self, batch: list[Place], error: Exception) -> None:
        """Retries the inputs one at a time; one that fails alone ends its call."""
        self._last_progress_s = time.monotonic()
        mx.clear_cache()
        if len(batch) > 1:
            _log.warning("a batch of %d inputs failed: %s", len(batch), error)
            self._queue.retry_alone(batch)
            return
        _log.exception("an input failed", exc_info=error)
        self._failures += 1
        if self._failures >= _MAX_CONSECUTIVE_FAILURES:
            raise error
        [place] = batch
        place.call.error = (
            error
            if isinstance(error, MeshError)
            else Internal(f"the engine failed on inputs[{place.index}]")
        )
        call_on(self._event_loop, self._computed, 0, [place.call])


def _remaining_s(call: EncodeCall) -> float | None:
    return None if call.deadline_s is None else max(0.0, call.deadline_s - time.monotonic())
