"""The engine without MLX: the same contracts and policies, times that are set, known tokens.

For measuring what the mesh itself costs, and for faults at a scale that no model allows.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxmesh_engine.forward import model_config
from mlxmesh_engine.scheduling.capacity import UNKNOWN, KvMemory, kv_memory
from mlxmesh_engine.scheduling.pace import Read, StepCounts, TokenRate
from mlxmesh_engine.scheduling.request import (
    FinishReason,
    Load,
    SequenceKey,
    SequenceRequest,
    Update,
)
from mlxmesh_engine.scheduling.scheduler import ActiveSequence, Scheduler, read_of
from mlxmesh_engine.service.backend import Deliver
from mlxmesh_shared.errors import DeadlineExceeded, EngineFailed, MeshError

_IDLE_TURN_S = 0.25
_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model of which only the configuration is read; satisfies ModelFacts."""

    vocab_size: int
    context_tokens: int
    eos_token_ids: frozenset[int]
    device: str = "cpu"
    dtype: str = "none"
    dtype_note: str = "simulated: no weights are read and the tokens mean nothing"
    blas: str = "none"
    weights_bytes: int = 0
    kv: KvMemory = UNKNOWN

    @classmethod
    def read(
        cls,
        model_dir: Path,
        context_tokens: int = 0,
        *,
        kv_cache_bytes: int | None = None,
        available_bytes: int = 0,
    ) -> "SimulatedModel":
        """Raises: InvalidArgument, FeatureNotSupported; what MLX would refuse is refused."""
        config = model_config.read_config(model_dir)
        context_tokens = model_config.context_tokens(config, context_tokens)
        return cls(
            vocab_size=model_config.vocab_size(config),
            context_tokens=context_tokens,
            eos_token_ids=model_config.eos_token_ids(config),
            kv=kv_memory(
                token_bytes=model_config.kv_token_bytes(config),
                context_tokens=context_tokens,
                available_bytes=available_bytes,
                asked_bytes=kv_cache_bytes,
            ),
        )

    def token(self, seed: int, position: int) -> int:
        """The token at a position, whatever came before; never one of the model's end tokens."""
        mixed = (seed * 0x9E3779B97F4A7C15 + position * 0xBF58476D1CE4E5B9) & _MASK
        token = (mixed ^ (mixed >> 31)) * 0x94D049BB133111EB >> 24
        token %= self.vocab_size
        while token in self.eos_token_ids:
            token = (token + 1) % self.vocab_size
        return token


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a step takes and what goes wrong."""

    step_s: float = 0.005
    """A decode step, of however many rows."""
    prefill_s_per_token: float = 0.00005
    jitter: float = 0.0
    """A step takes up to this part longer."""
    failure_rate: float = 0.0
    """The chance of a running sequence to fail, in each step."""
    stall_rate: float = 0.0
    """The chance of a step to hang."""
    stall_s: float = 1.0

    def duration_s(self, *, decodes: bool, prefill_tokens: int, chance: random.Random) -> float:
        """Of one step."""
        busy_s = self.step_s * decodes + self.prefill_s_per_token * prefill_tokens
        busy_s *= 1 + self.jitter * chance.random()
        return busy_s + (self.stall_s if chance.random() < self.stall_rate else 0)


class SimulatedEngine:
    """Satisfies Backend, as one task on the event loop."""

    def __init__(
        self,
        load_model: Callable[[], SimulatedModel],
        *,
        pace: Pace = Pace(),
        max_running: int = 64,
        max_waiting: int = 256,
        prefill_tokens_per_step: int = 512,
        prefill_slowdown: float = 1.7,
        steps: StepCounts | None = None,
    ) -> None:
        self._load_model = load_model
        self._pace = pace
        self._steps = steps or StepCounts()
        self._limits = (max_running, max_waiting)
        self._scheduler = Scheduler(
            max_running=max_running,
            prefill_tokens_per_step=prefill_tokens_per_step,
            prefill_slowdown=prefill_slowdown,
        )
        self._kv: KvMemory = UNKNOWN
        self._chance = random.Random(0)
        self._actives: dict[SequenceKey, ActiveSequence] = {}
        self._decoding: dict[SequenceKey, ActiveSequence] = {}
        self._outputs: dict[int, list[Update]] = {}
        self._tokens = 0
        self._rate = TokenRate()
        self._has_work = asyncio.Event()
        self._turned_s = self._due_s = time.monotonic()
        self._turning: asyncio.Task[None] | None = None
        self.turns = 0
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self, deliver: Deliver) -> SimulatedModel:
        model = self._load_model()
        self._kv, self._scheduler.kv_capacity_tokens = model.kv, model.kv.capacity_tokens
        self._turning = asyncio.create_task(self._turn_until_stopped(model, deliver))
        self._turning.add_done_callback(self._note_death)
        return model

    async def stop(self) -> None:
        if self._turning is not None:
            self._turning.cancel()
            await asyncio.wait({self._turning})

    def submit(self, request: SequenceRequest) -> None:
        active = self._actives[request.key] = ActiveSequence(request)
        self._scheduler.add(active)
        self._tell(active, Update(active.key[1], accepted=True))

    def cancel(self, key: SequenceKey) -> None:
        if (active := self._actives.get(key)) is not None:
            timings = active.timings(time.monotonic())
            reason = FinishReason.CANCELLED
            self._end(active, Update(key[1], finish_reason=reason, timings=timings))

    def drop_stream(self, stream_id: int) -> None:
        for active in [each for each in self._actives.values() if each.key[0] == stream_id]:
            self._forget(active)

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._turned_s

    @property
    def load(self) -> Load:
        return Load(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            max_running=self._limits[0],
            max_waiting=self._limits[1],
            tokens_per_second=self._rate.per_second(time.monotonic()),
            kv_capacity_bytes=self._kv.capacity_bytes,
            kv_reserved_bytes=self._scheduler.promised_tokens * self._kv.token_bytes,
        )

    async def _turn_until_stopped(self, model: SimulatedModel, deliver: Deliver) -> None:
        while True:
            if not self._actives and not self._outputs:
                await self._work()
            await self._pass_time(self._read_prompts())
            self._turned_s = time.monotonic()
            self._end_expired(self._turned_s)
            self._steps.turned(self._turned_s, len(self._decoding))
            self._decode(model, self._turned_s)
            self.turns += 1
            self._rate.add(self._turned_s, self._tokens)
            self._tokens = 0
            outputs, self._outputs = self._outputs, {}
            if outputs:
                deliver(outputs, self.load)

    async def _work(self) -> None:
        """Waits for some, or for as long as an idle turn takes."""
        self._has_work.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_IDLE_TURN_S):
                await self._has_work.wait()
        self._due_s = time.monotonic()

    async def _pass_time(self, read: Read) -> None:
        decodes = bool(self._decoding)
        duration_s = self._pace.duration_s(
            decodes=decodes, prefill_tokens=read.tokens, chance=self._chance
        )
        if decodes:
            self._scheduler.note_decode_took(duration_s, read)
        now_s = time.monotonic()
        # From when the last step was due, so that a timer's lateness does not add up.
        self._due_s = max(self._due_s + duration_s, now_s)
        await asyncio.sleep(self._due_s - now_s)

    def _read_prompts(self) -> Read:
        """Reads a slice of the prompts; those read to the end decode in this same step."""
        self._scheduler.admit(time.monotonic())
        slices = self._scheduler.plan_prefill()
        for slice_ in slices:
            active = slice_.active
            if self._scheduler.advance(slice_):
                self._decoding[active.key] = active
            read = min(active.prefilled + 1, len(active.request.prompt))
            self._tell(active, Update(active.key[1], prefilled_tokens=read))
        return read_of(slices)

    def _decode(self, model: SimulatedModel, now_s: float) -> None:
        failure_rate = self._pace.failure_rate
        for active in list(self._decoding.values()):
            if failure_rate and self._chance.random() < failure_rate:
                self._fail(active, EngineFailed("the simulated engine failed, as it was set to"))
            else:
                self._make_token(active, model, now_s)

    def _make_token(self, active: ActiveSequence, model: SimulatedModel, now_s: float) -> None:
        request, number = active.request, active.key[1]
        token = model.token(request.sampling.seed, active.collected)
        active.collect(token, now_s)
        self._tokens += 1
        reason = None
        if token in request.end_token_ids:
            reason = FinishReason.STOP
        elif active.collected >= request.max_tokens:
            reason = FinishReason.LENGTH
        if reason is None:
            self._tell(active, Update(number, token_ids=(token,)))
        else:
            timings = active.timings(now_s)
            self._end(
                active, Update(number, token_ids=(token,), finish_reason=reason, timings=timings)
            )

    def _end_expired(self, now_s: float) -> None:
        for active in list(self._actives.values()):
            deadline_s = active.request.deadline_s
            if deadline_s is not None and now_s >= deadline_s:
                self._fail(active, DeadlineExceeded("the deadline passed; allow more time"))

    def _fail(self, active: ActiveSequence, error: MeshError) -> None:
        timings = active.timings(time.monotonic())
        self._end(active, Update(active.key[1], error=error, timings=timings))

    def _end(self, active: ActiveSequence, last: Update) -> None:
        self._tell(active, last)
        self._forget(active)

    def _forget(self, active: ActiveSequence) -> None:
        self._scheduler.remove(active)
        self._decoding.pop(active.key, None)
        self._actives.pop(active.key, None)

    def _tell(self, active: ActiveSequence, update: Update) -> None:
        self._outputs.setdefault(active.key[0], []).append(update)
        self._has_work.set()

    def _note_death(self, turning: asyncio.Task[None]) -> None:
        if not turning.cancelled() and not self.dead.done():
            self.dead.set_exception(turning.exception() or EngineFailed("the simulation ended"))
