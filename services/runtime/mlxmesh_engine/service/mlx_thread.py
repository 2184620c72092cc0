"""The only thread that uses MLX: loads the model, then runs the step loop."""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from mlxmesh_engine.adapters.locating import LocateAdapter, directory_of
from mlxmesh_engine.adapters.slots import AdapterSlots
from mlxmesh_engine.forward.loader import LoadedModel
from mlxmesh_engine.forward.proposals import open_speculation
from mlxmesh_engine.prefixes.directory import PrefixDirectory
from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory
from mlxmesh_engine.scheduling.request import Load, SequenceKey, SequenceRequest, StepOutputs
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.service.backend import Deliver
from mlxmesh_engine.service.loop_calls import call_on, fail, succeed
from mlxmesh_engine.service.mlx_cleanup import mlx_released
from mlxmesh_engine.service.outbox import OutputInterval
from mlxmesh_engine.service.step_loop import StepLoop
from mlxmesh_engine.service.telemetry import RATE_WINDOW_S, StepMetrics, TokenRate

_log = logging.getLogger(__name__)

# An idle loop waits this long for more requests, so that their prefill is one batch.
_GATHER_S = 0.0015
# While all sequences wait for files, only deadlines are due.
_BLOCKED_S = 0.05
# How long a stopping engine may write prefixes.
_CLOSE_PREFIXES_S = 3.0


@dataclass(frozen=True, slots=True)
class LoopOptions:
    max_running: int = 64
    max_waiting: int = 256
    prefill_tokens_per_step: int = 512
    prefill_slowdown: float = 1.7
    prefix_cache_bytes: int = 0
    open_prefix_directory: Callable[[LoadedModel], PrefixDirectory | None] = lambda _: None
    token_interval_s: float = 0.0
    speculative: str = "off"
    """off, ngram, or draft, for which the model is loaded with one."""
    max_adapters: int = 64
    adapter_bytes: int = 2**30
    locate_adapter: LocateAdapter = directory_of


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
        self._arrived = False
        """Whether a foreground sequence has come since the commands were last taken."""
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
        try:
            return await self._loaded
        except Exception:
            # Loading failed, so the thread ends: the process must not end before it.
            await asyncio.to_thread(self._thread.join)
            raise

    async def stop(self) -> None:
        """Ends the thread after the current step; active sequences are dropped."""
        self._put(None)
        await asyncio.to_thread(self._thread.join)

    def submit(self, request: SequenceRequest) -> None:
        self._put(lambda loop: loop.submit(request))
        if not request.background:
            self._arrived = True

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

    @mlx_released()
    def _run(self) -> None:
        try:
            loaded = self._load_model()
        except BaseException as error:  # noqa: BLE001 - raised in `start`
            call_on(self._event_loop, fail, self._loaded, error)
            return
        call_on(self._event_loop, succeed, self._loaded, loaded)
        try:
            self._run_steps(loaded)
        except BaseException as error:  # noqa: BLE001 - the thread must never end silently
            _log.exception("the MLX thread died")
            call_on(self._event_loop, fail, self.dead, error)

    def _run_steps(self, loaded: LoadedModel) -> None:
        options = self._options
        self._kv = loaded.kv
        self._idle_since_s = time.monotonic()
        adapters = AdapterSlots(
            loaded.model.adapters,
            max_adapters=options.max_adapters,
            max_bytes=options.adapter_bytes,
            on_read=lambda: self._put(_nothing),
            locate=options.locate_adapter,
        )
        with contextlib.closing(adapters):
            self._run_loop(loaded, adapters)

    def _run_loop(self, loaded: LoadedModel, adapters: AdapterSlots) -> None:
        options = self._options
        scheduler = Scheduler(
            max_running=options.max_running,
            prefill_tokens_per_step=options.prefill_tokens_per_step,
            prefill_slowdown=options.prefill_slowdown,
            kv_capacity_tokens=loaded.kv.capacity_tokens,
            interruptible=loaded.model.interruptible,
            adapters=adapters,
        )
        directory = options.open_prefix_directory(loaded)
        loop = StepLoop(
            loaded,
            scheduler,
            prefix_cache_bytes=options.prefix_cache_bytes,
            prefix_directory=directory,
            on_prefix_read=lambda: self._put(_nothing),
            adapters=adapters,
            speculation=open_speculation(options.speculative, loaded),
            metrics=self._metrics,
            interrupted=lambda: self._arrived,
        )
        try:
            self._run_until_stopped(loop, scheduler)
        finally:
            if directory is not None:
                directory.close(_CLOSE_PREFIXES_S)

    def _run_until_stopped(self, loop: StepLoop, scheduler: Scheduler) -> None:
        idle_before = False
        while True:
            # The first idle step ends the measurement of intervals and publishes the idle load.
            idle = loop.idle and idle_before
            for command in self._next_commands(wait=idle or loop.blocked, idle=idle):
                if command is None:
                    return
                command(loop)
            idle_before = loop.idle
            for outputs in loop.step():
                self._publish(outputs, scheduler, loop)

    def _next_commands(self, *, wait: bool, idle: bool) -> list[Command | None]:
        """All pending commands; may wait for one and gather those that follow shortly.

        idle: whether nothing but a command is waited for.
        """
        commands: list[Command | None] = []
        if wait:
            self._waits = True
            with contextlib.suppress(queue.Empty):
                commands.append(self._commands.get(timeout=None if idle else _BLOCKED_S))
            self._waits = False
            time.sleep(_GATHER_S)
        self._arrived = False
        with contextlib.suppress(queue.Empty):
            while True:
                commands.append(self._commands.get_nowait())
        return commands

    def _publish(self, outputs: StepOutputs, scheduler: Scheduler, loop: StepLoop) -> None:
        now_s = self._last_step_s = time.monotonic()
        self.steps = loop.steps
        if not loop.idle:
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
            prefix_disk=loop.prefix_disk,
            prompt_tokens=loop.prompt_tokens,
            cached_prompt_tokens=loop.cached_prompt_tokens,
            proposed_tokens=loop.proposed_tokens,
            accepted_tokens=loop.accepted_tokens,
            kv_capacity_bytes=self._kv.capacity_bytes,
            kv_reserved_bytes=scheduler.reserved_tokens * self._kv.token_bytes,
            background_running=scheduler.background_running,
            background_waiting=scheduler.background_waiting,
            oldest_waiting_s=scheduler.oldest_waiting_s,
            idle_since_s=self._idle_since_s,
            adapters=loop.adapters,
        )
        if (due := self._output_interval.release(outputs, now_s)) and self._deliver is not None:
            call_on(self._event_loop, self._deliver, due, self._last_load)

    def _idle_load(self) -> Load:
        options = self._options
        return Load(0, 0, options.max_running, options.max_waiting, idle_since_s=self._idle_since_s)


def _nothing(_loop: StepLoop) -> None:
    """Wakes the thread for a step."""
