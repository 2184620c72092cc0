"""The engine without MLX: the same contracts and scheduling, configured step times, fixed tokens.

It measures the cost of the mesh itself, and injects faults at a scale that no model allows.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable

from mlxmesh_engine.scheduling.background import BackgroundTurn
from mlxmesh_engine.scheduling.capacity import UNKNOWN_KV, KvMemory
from mlxmesh_engine.scheduling.prefill_plan import count_tokens
from mlxmesh_engine.scheduling.request import Load, SequenceKey, SequenceRequest, Update
from mlxmesh_engine.scheduling.scheduler import Scheduler
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.sequence_table import SequenceTable
from mlxmesh_engine.scheduling.step_times import PrefillTokens, StepTime
from mlxmesh_engine.service.backend import Deliver
from mlxmesh_engine.service.simulated_model import Pace, SimulatedModel
from mlxmesh_engine.service.telemetry import StepMetrics, TokenRate
from mlxmesh_shared.errors import EngineFailed

_DEFAULT_PACE = Pace()


class SimulatedEngine:
    """A Backend that runs as one task on the event loop."""

    def __init__(
        self,
        load_model: Callable[[], SimulatedModel],
        *,
        pace: Pace = _DEFAULT_PACE,
        max_running: int = 64,
        max_waiting: int = 256,
        prefill_tokens_per_step: int = 512,
        prefill_slowdown: float = 1.7,
        max_adapters: int = 64,
        metrics: StepMetrics | None = None,
    ) -> None:
        self._load_model = load_model
        self._pace = pace
        self._metrics = metrics or StepMetrics()
        self._limits = (max_running, max_waiting)
        self._max_adapters = max_adapters
        self._adapters: OrderedDict[str, None] = OrderedDict()
        """The digests of those used last; their files are not read."""
        self._scheduler = Scheduler(
            max_running=max_running,
            prefill_tokens_per_step=prefill_tokens_per_step,
            prefill_slowdown=prefill_slowdown,
        )
        self._kv: KvMemory = UNKNOWN_KV
        self._rng = random.Random(0)
        self._sequences = SequenceTable(on_remove=self._release)
        self._decoding: dict[SequenceKey, ActiveSequence] = {}
        self._turn = BackgroundTurn()
        self._rate = TokenRate()
        self._has_work = asyncio.Event()
        self._waits = False
        self._last_step_s = self._due_s = time.monotonic()
        self._idle_since_s: float | None = self._last_step_s
        self._task: asyncio.Task[None] | None = None
        self.steps = 0
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, deliver: Deliver) -> SimulatedModel:
        model = self._load_model()
        self._kv, self._scheduler.kv_capacity_tokens = model.kv, model.kv.capacity_tokens
        self._task = asyncio.create_task(self._run_steps(model, deliver))
        self._task.add_done_callback(self._on_done)
        return model

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def submit(self, request: SequenceRequest) -> None:
        active = self._sequences.add(request)
        self._scheduler.add(active)
        self._use_adapter(request)
        self._idle_since_s = None
        self._sequences.emit(active, Update(active.key[1], accepted=True))
        self._has_work.set()

    def _use_adapter(self, request: SequenceRequest) -> None:
        if request.adapter is not None:
            self._adapters[request.adapter.digest] = None
            self._adapters.move_to_end(request.adapter.digest)
            if len(self._adapters) > self._max_adapters:
                self._adapters.popitem(last=False)

    def cancel(self, key: SequenceKey) -> None:
        self._sequences.cancel(key, time.monotonic())

    def drop_stream(self, stream_id: int) -> None:
        self._sequences.drop_stream(stream_id)

    @property
    def time_since_progress_s(self) -> float:
        if self._waits and not self._has_work.is_set():
            return 0.0
        return time.monotonic() - self._last_step_s

    @property
    def load(self) -> Load:
        return Load(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            max_running=self._limits[0],
            max_waiting=self._limits[1],
            tokens_per_second=self._rate.per_second(time.monotonic()),
            kv_capacity_bytes=self._kv.capacity_bytes,
            kv_reserved_bytes=self._scheduler.reserved_tokens * self._kv.token_bytes,
            background_running=self._scheduler.background_running,
            background_waiting=self._scheduler.background_waiting,
            oldest_waiting_s=self._scheduler.oldest_waiting_s,
            idle_since_s=self._idle_since_s,
            adapters=tuple(self._adapters),
        )

    async def _run_steps(self, model: SimulatedModel, deliver: Deliver) -> None:
        while True:
            if not self._sequences and not self._sequences.has_outputs:
                await self._wait_for_work()
            await self._sleep_step(self._prefill(model))
            self._last_step_s = time.monotonic()
            self._sequences.fail_expired(self._last_step_s)
            self._metrics.record(self._last_step_s, len(self._decoding_now()))
            tokens = self._decode(model, self._last_step_s)
            self.steps += 1
            self._rate.add(self._last_step_s, tokens)
            if outputs := self._sequences.pop_outputs():
                deliver(outputs, self.load)

    async def _wait_for_work(self) -> None:
        """Returns when a sequence is submitted."""
        self._has_work.clear()
        self._metrics.record(time.monotonic(), 0)
        self._waits = True
        await self._has_work.wait()
        self._waits = False
        self._last_step_s = self._due_s = time.monotonic()

    async def _sleep_step(self, prefill: PrefillTokens) -> None:
        decodes = bool(self._decoding_now())
        duration_s = self._pace.duration_s(
            decodes=decodes, prefill_tokens=prefill.total, rng=self._rng
        )
        if decodes or prefill.total:
            self._record(StepTime(duration_s, prefill, decodes))
        now_s = time.monotonic()
        # Relative to when the last step was due, so that late timers do not add up.
        self._due_s = max(self._due_s + duration_s, now_s)
        await asyncio.sleep(self._due_s - now_s)

    def _record(self, step: StepTime) -> None:
        if not self._turn:
            self._scheduler.record_step(step)
        if self._scheduler.decoding and not self._scheduler.prefilling:
            self._scheduler.record_pace(step.seconds, background=bool(self._turn))

    def _prefill(self, model: SimulatedModel) -> PrefillTokens:
        """Prefills slices of prompts; complete prompts decode in the same step."""
        for requeued in self._scheduler.admit(time.monotonic()):
            self._decoding.pop(requeued.key, None)
            requeued.requeue()
        self._turn = self._scheduler.background_turn()
        slices = self._scheduler.plan_prefill()
        if self._turn.prefill:
            slices += self._scheduler.plan_background_prefill()
        for slice_ in slices:
            active, logprobs = slice_.active, model.prompt_logprobs(slice_)
            if self._scheduler.advance(slice_):
                self._start_decoding(active)
            prefilled = min(active.prefilled + 1, len(active.request.prompt))
            self._sequences.emit(
                active,
                Update(active.key[1], prefilled_tokens=prefilled, prompt_logprobs=logprobs),
            )
        return count_tokens(slices)

    def _start_decoding(self, active: ActiveSequence) -> None:
        """Also starts the sequences that waited for its prefill."""
        self._decoding[active.key] = active
        for follower in self._scheduler.followers(active):
            self._scheduler.copy_prefill(follower)
            self._decoding[follower.key] = follower
            tokens, cached = follower.prefilled_prompt_tokens, follower.cached_prompt_tokens
            update = Update(follower.key[1], cached_tokens=cached, prefilled_tokens=tokens)
            self._sequences.emit(follower, update)

    def _decode(self, model: SimulatedModel, now_s: float) -> int:
        """Decodes one token for each sequence; returns their number."""
        tokens, failure_rate = 0, self._pace.failure_rate
        for active in self._decoding_now():
            if failure_rate and self._rng.random() < failure_rate:
                error = EngineFailed("a simulated failure, as configured")
                self._sequences.fail(active, error, time.monotonic())
            else:
                token = model.token(active.request.sampling.seed, active.generated_tokens)
                logprobs = model.logprobs(active, [token])
                self._sequences.append_tokens(active, (token,), now_s, logprobs=logprobs)
                tokens += 1
        return tokens

    def _decoding_now(self) -> list[ActiveSequence]:
        """All sequences but those that pause."""
        return [
            active
            for active in self._decoding.values()
            if self._turn.decode or not active.request.background
        ]

    def _release(self, active: ActiveSequence) -> None:
        self._scheduler.remove(active)
        self._decoding.pop(active.key, None)
        if not self._sequences:
            self._idle_since_s = time.monotonic()

    def _on_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not self.dead.done():
            self.dead.set_exception(task.exception() or EngineFailed("the simulation ended"))
