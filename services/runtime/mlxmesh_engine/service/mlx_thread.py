"""The only thread that uses MLX: loads the model, then runs the step loop."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory
from mlxmesh_engine.scheduling.request import Load, SequenceKey, SequenceRequest, StepOutputs
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.service.backend import Deliver
from mlxmesh_engine.service.outbox import OutputInterval
from mlxmesh_engine.service.step_loop import StepLoop
from mlxmesh_engine.service.telemetry import RATE_WINDOW_S, StepMetrics, TokenRate

_log = logging.getLogger(__name__)

# An idle loop waits this long for more requests, so that their prefill is one batch.
_GATHER_S = 0.0015


@dataclass(frozen=True, slots=True)
class LoopOptions:
    max_running: int = 64
    max_waiting: int = 256
    prefill_tokens_per_step: int = 512
    prefill_slowdown: float = 1.7
    prefix_cache_bytes: int = 0
    token_interval_s: float = 0.0


Command = Callable[[StepLoop], None]


class MlxThread:
    """Takes commands from the event loop and delivers outputs to it after each step.

    `dead` fails with the error that ended the thread; it never ends silently.
    """

    def __init__(
        self,
        load_model: Callable[[], LoadedModel],
        options: LoopOptions = LoopOptions(),
        metrics: StepMetrics | None = None,
    ) -> None:
        self._load_model = load_model
        self._options = options
        self._metrics = metrics
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mlx", daemon=True)
        self._rate = TokenRate()
        self._output_interval = OutputInterval(options.token_interval_s)
        self._deliver: Deliver | None = None
        self._last_step_s = time.monotonic()
        self._idle_since_s: float | None = self._last_step_s
        self._waits = False
        self._kv: KvMemory = UNKNOWN_KV
        self._last_load = self._idle_load()
        self.steps = 0
        self._event_loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[LoadedModel] = self._event_loop.create_future()
        self.dead: asyncio.Future[None] = self._event_loop.create_future()

    async def start(self, deliver: Deliver) -> LoadedModel:
        """Loads the model and starts the steps. Raises: whatever loading raises."""
        self._deliver = deliver
        self._thread.start()
        return await self._loaded

    async def stop(self) -> None:
        """Ends the thread after the current step; active sequences are dropped."""
        self._put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, request: SequenceRequest) -> None:
        self._put(lambda loop: loop.submit(request))

    def cancel(self, key: SequenceKey) -> None:
        self._put(lambda loop: loop.cancel(key))

    def drop_stream(self, stream_id: int) -> None:
        self._put(lambda loop: loop.drop_stream(stream_id))

    @property
    def time_since_progress_s(self) -> float:
        """Time since the last step, or since a command that the idle thread has not taken."""
        if self._waits and self._commands.empty():
            return 0.0
        return time.monotonic() - self._last_step_s

    @property
    def load(self) -> Load:
        """As of the last step; an idle thread generates no tokens."""
        if self._waits and time.monotonic() - self._last_step_s > RATE_WINDOW_S:
            return replace(self._last_load, tokens_per_second=0.0)
        return self._last_load

    def _put(self, command: Command | None) -> None:
        if self._waits and self._commands.empty():
            # From now on the thread owes a step.
            self._last_step_s = time.monotonic()
        self._commands.put(command)

    def _run(self) -> None:
        try:
            loaded = self._load_model()
        except BaseException as error:  # noqa: BLE001 - raised in `start`
            self._call(_fail, self._loaded, error)
            return
        self._call(_succeed, self._loaded, loaded)
        try:
            self._run_steps(loaded)
        except BaseException as error:  # noqa: BLE001 - the thread must never end silently
            _log.exception("the MLX thread died")
            self._call(_fail, self.dead, error)

    def _run_steps(self, loaded: LoadedModel) -> None:
        options = self._options
        self._kv = loaded.kv
        self._idle_since_s = time.monotonic()
        scheduler = Scheduler(
            max_running=options.max_running,
            prefill_tokens_per_step=options.prefill_tokens_per_step,
            prefill_slowdown=options.prefill_slowdown,
            kv_capacity_tokens=loaded.kv.capacity_tokens,
        )
        loop = StepLoop(
            loaded, scheduler, prefix_cache_bytes=options.prefix_cache_bytes, metrics=self._metrics
        )
        idle_before = False
        while True:
            # The first idle step ends the measurement of intervals and publishes the idle load.
            for command in self._next_commands(wait=loop.idle and idle_before):
                if command is None:
                    return
                command(loop)
            idle_before = loop.idle
            for outputs in loop.step():
                self._publish(outputs, scheduler, loop)

    def _next_commands(self, *, wait: bool) -> list[Command | None]:
        """All pending commands; may wait for one and gather those that follow shortly."""
        commands: list[Command | None] = []
        if wait:
            self._waits = True
            commands.append(self._commands.get())
            self._waits = False
            time.sleep(_GATHER_S)
        with contextlib.suppress(queue.Empty):
            while True:
                commands.append(self._commands.get_nowait())
        return commands

    def _publish(self, outputs: StepOutputs, scheduler: Scheduler, loop: StepLoop) -> None:
        now_s = self._last_step_s = time.monotonic()
        self.steps = loop.steps
        if scheduler.running + scheduler.waiting:
            self._idle_since_s = None
        elif self._idle_since_s is None:
            self._idle_since_s = now_s
        tokens = sum(len(update.token_ids) for updates in outputs.values() for update in updates)
        self._rate.add(now_s, tokens)
        self._last_load = Load(
            running=scheduler.running,
            waiting=scheduler.waiting,
            max_running=self._options.max_running,
            max_waiting=self._options.max_waiting,
            kv_bytes=loop.kv_bytes,
            tokens_per_second=self._rate.per_second(now_s),
            prefix_bytes=loop.prefix_bytes,
            prompt_tokens=loop.prompt_tokens,
            cached_prompt_tokens=loop.cached_prompt_tokens,
            kv_capacity_bytes=self._kv.capacity_bytes,
            kv_reserved_bytes=scheduler.reserved_tokens * self._kv.token_bytes,
            oldest_waiting_s=scheduler.oldest_waiting_s,
            idle_since_s=self._idle_since_s,
        )
        if (due := self._output_interval.release(outputs, now_s)) and self._deliver is not None:
            self._call(self._deliver, due, self._last_load)

    def _idle_load(self) -> Load:
        options = self._options
        return Load(0, 0, options.max_running, options.max_waiting, idle_since_s=self._idle_since_s)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        # The event loop may be closed already while the process shuts down.
        with contextlib.suppress(RuntimeError):
            self._event_loop.call_soon_threadsafe(function, *args)


def _succeed(future: asyncio.Future[LoadedModel], loaded: LoadedModel) -> None:
    if not future.done():
        future.set_result(loaded)


def _fail(future: asyncio.Future[object], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
