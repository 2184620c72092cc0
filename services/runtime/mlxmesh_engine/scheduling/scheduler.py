"""Which sequences get a slot, wait, prefill or decode. Pure."""

from collections.abc import Iterator

from mlxmesh_engine.scheduling.adapter_gate import AdapterGate, NoAdapters
from mlxmesh_engine.scheduling.background import (
    MEMORY_SHARE,
    BackgroundLane,
    BackgroundPace,
    BackgroundTurn,
)
from mlxmesh_engine.scheduling.fair_queue import FairQueue
from mlxmesh_engine.scheduling.prefill_plan import PrefillPlanner, PrefillSlice
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.shared_prefill import can_follow, own_prefills
from mlxmesh_engine.scheduling.step_times import StepTime


class Scheduler:
    """Moves sequences from waiting to prefilling to decoding; both of the latter are running.

    `kv_capacity_tokens` bounds the tokens that the running sequences may reach; None: no bound.

    Background sequences have a lane of their own. They get a row only while no other sequence
    waits, and work in the steps that `background_turn` allows. What is said of sequences below
    is about the others, unless it names them.

    A sequence whose adapter has no slot yet is parked: it waits, but lets others overtake it.
    """

    def __init__(
        self,
        *,
        max_running: int,
        prefill_tokens_per_step: int,
        prefill_slowdown: float = 1.7,
        kv_capacity_tokens: int | None = None,
        interruptible: bool = False,
        adapters: AdapterGate | None = None,
    ) -> None:
        """interruptible: whether a pass of background work ends when another sequence arrives."""
        self.kv_capacity_tokens = kv_capacity_tokens
        self._max_running = max_running
        self._planner = PrefillPlanner(
            prefill_tokens_per_step, slowdown=prefill_slowdown, interruptible=interruptible
        )
        self._adapters = adapters or NoAdapters()
        self._adapters_version = self._adapters.version
        self._waiting: FairQueue[ActiveSequence] = FairQueue()
        self._parked: list[ActiveSequence] = []
        self._prefilling: list[ActiveSequence] = []
        self._decoding: list[ActiveSequence] = []
        self._waiting_tokens = 0
        self._running_tokens = 0
        self._background = BackgroundLane()
        self._pace = BackgroundPace()

    @property
    def waiting(self) -> int:
        return len(self._waiting) + len(self._parked)

    @property
    def oldest_waiting_s(self) -> float | None:
        """When the sequence that has waited longest was submitted; None if none waits."""
        waiting = (*self._waiting, *self._parked)
        return min((each.request.submitted_s for each in waiting), default=None)

    @property
    def blocked(self) -> bool:
        """Whether all sequences wait for their adapters."""
        lane = self._background
        if self.running or lane.running or self._waiting:
            return False
        return bool(self._parked) or bool(lane.parked and not lane.waiting)

    @property
    def running(self) -> int:
        """Sequences that have a slot."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def prefilling(self) -> bool:
        """Whether a running sequence has prompt tokens to prefill."""
        return bool(self._prefilling)

    @property
    def decoding(self) -> int:
        """Running sequences whose prompt is prefilled."""
        return len(self._decoding)

    @property
    def background_running(self) -> int:
        """Background sequences with keys and values, also while they pause."""
        return self._background.running

    @property
    def background_waiting(self) -> int:
        return len(self._background.waiting) + len(self._background.parked)

    def __iter__(self) -> Iterator[ActiveSequence]:
        yield from self._decoding
        yield from self._prefilling
        yield from self._waiting
        yield from self._parked
        yield from self._background

    @property
    def reserved_tokens(self) -> int:
        """How many tokens all sequences, running or waiting, may reach."""
        return self._running_tokens + self._waiting_tokens

    def add(self, active: ActiveSequence) -> None:
        request = active.request
        if request.background:
            self._background.add(active)
            return
        self._enqueue(active)
        self._waiting_tokens += request.max_total_tokens

    def _enqueue(self, active: ActiveSequence) -> None:
        request = active.request
        self._waiting.push(
            active,
            caller=request.caller,
            priority=request.priority,
            cost=request.max_total_tokens,
            since_s=request.submitted_s,
        )

    def remove(self, active: ActiveSequence) -> None:
        self._adapters.release(active)
        if active.request.background:
            self._background.remove(active)
            return
        if self._waiting.remove(active) or active in self._parked:
            self._waiting_tokens -= active.request.max_total_tokens
            if active in self._parked:
                self._parked.remove(active)
            return
        for group in (self._decoding, self._prefilling):
            if active in group:
                group.remove(active)
                self._running_tokens -= active.request.max_total_tokens

    @property
    def must_requeue(self) -> bool:
        """Whether `admit` may need memory, or slots of adapters, of background sequences."""
        if self._needs_background_slot:
            return True
        if not (self._waiting and self._background.running) or self.kv_capacity_tokens is None:
            return False
        return self.reserved_tokens + self._background.running_tokens > self.kv_capacity_tokens

    @property
    def _needs_background_slot(self) -> bool:
        """Whether a sequence waits for a slot while background sequences have some."""
        return bool(self._parked) and self._adapters.full and self._background.holds_slots

    def admit(self, now_s: float) -> list[ActiveSequence]:
        """Gives free slots to the next waiting sequences while the KV cache has memory for them.

        No sequence overtakes one that needs more memory than is free: it could starve. Returns the
        background sequences that had to give their memory up and are back in the queue; no step
        may be running for one.
        """
        requeued: list[ActiveSequence] = []
        while self._needs_background_slot:
            requeued.append(self._requeue(with_slot=True))
        self._unpark()
        requeued += self._admit_waiting(now_s)
        self._admit_background(now_s)
        return requeued

    def _unpark(self) -> None:
        """Lets the parked sequences try again, if that may help."""
        if self._adapters_version != self._adapters.version:
            self._adapters_version = self._adapters.version
            parked, self._parked = self._parked, []
            for active in parked:
                self._enqueue(active)
            self._background.unpark()

    def _requeue(self, *, with_slot: bool = False) -> ActiveSequence:
        """Moves a background sequence back to the queue; there must be one."""
        active = self._background.requeue(with_slot=with_slot)
        self._adapters.release(active)
        return active

    def _admit_waiting(self, now_s: float) -> list[ActiveSequence]:
        requeued: list[ActiveSequence] = []
        while self.running < self._max_running and (active := self._waiting.peek()) is not None:
            if not self._could_fit(active):
                break
            if not self._adapters.acquire(active):
                self._waiting.remove(active)
                self._parked.append(active)
                continue
            while not self._has_memory_for(active):
                requeued.append(self._requeue())
            self._waiting.pop()
            self._waiting_tokens -= active.request.max_total_tokens
            self._running_tokens += active.request.max_total_tokens
            active.admit(now_s)
            self._prefilling.append(active)
        return requeued

    def _admit_background(self, now_s: float) -> None:
        """Gives rows to background sequences, and keeps memory for the others free."""
        lane = self._background
        while not (self._waiting or self._parked or self._prefilling) and (
            active := lane.waiting.peek()
        ):
            alone = not (lane.running or self.running)
            if lane.running + self.running >= self._max_running:
                return
            if not self._has_memory_for(active, share=1.0 if alone else MEMORY_SHARE):
                return
            if self._adapters.acquire(active):
                lane.admit_next(now_s)
            else:
                lane.park_next()

    def _could_fit(self, active: ActiveSequence) -> bool:
        """Whether there were memory for it without background sequences."""
        needed = self._running_tokens + active.request.max_total_tokens
        return self.kv_capacity_tokens is None or needed <= self.kv_capacity_tokens

    def _has_memory_for(self, active: ActiveSequence, *, share: float = 1.0) -> bool:
        needed = self._running_tokens + self._background.running_tokens
        needed += active.request.max_total_tokens
        return self.kv_capacity_tokens is None or needed <= share * self.kv_capacity_tokens

    def background_turn(self) -> BackgroundTurn:
        """What background sequences may do in the next step: nothing while a first token is due."""
        lane = self._background
        if not lane.running or self._first_token_due():
            return BackgroundTurn()
        prefilling, decoding = bool(lane.prefilling), bool(lane.decoding)
        if self._decoding:
            return self._pace.turn(prefilling=prefilling, decoding=decoding)
        # Nobody waits for their tokens: a step for a few rows costs almost as much as for many.
        full = len(lane.decoding) > len(lane.prefilling)
        return BackgroundTurn(decode=decoding and full, prefill=prefilling)

    def _first_token_due(self) -> bool:
        if self._prefilling or self._waiting:
            return True
        return any(not active.output for active in self._decoding)

    def awaiting_prefill(self, *, background: bool = False) -> list[ActiveSequence]:
        """The running sequences whose prefill has not started and waits for no other."""
        prefilling = self._background.prefilling if background else self._prefilling
        return [active for active in own_prefills(prefilling) if not active.prefill_started]

    def plan_prefill(self) -> list[PrefillSlice]:
        """The prompt tokens that the next step prefills."""
        return self._planner.plan(self._prefilling, decoding=len(self._decoding))

    def plan_background_prefill(self) -> list[PrefillSlice]:
        """The prompt tokens of the next pass of background prefill."""
        return self._planner.plan_background(self._background.prefilling, self._pace.baseline_s)

    def record_background_prefill(self, seconds: float, tokens: int) -> None:
        """Records how long the passes of a plan took."""
        self._planner.record_background(seconds, tokens)

    def interrupted_background_prefill(self) -> None:
        """Call it when a pass was interrupted."""
        self._planner.interrupted_background()

    def record_pace(self, step_s: float, *, background: bool) -> None:
        """Records a step in which all sequences only decoded, with or without background work."""
        self._pace.record(step_s, background=background)

    def record_step(self, step: StepTime) -> None:
        """Fits the budgets of prefill to the duration of a step."""
        self._planner.record(step)

    def advance(self, done: PrefillSlice) -> bool:
        """Records that a slice was prefilled; True if its sequence is ready to decode."""
        active = done.active
        active.prefilled += done.count
        if active.remaining_prefill > 0:
            return False
        self._start_decoding(active)
        return True

    def followers(self, leader: ActiveSequence) -> list[ActiveSequence]:
        """The sequences that need a copy of this one's row, once it is prefilled."""
        prefilling, _ = self._running_like(leader)
        return [each for each in prefilling if each.leader is leader and can_follow(each)]

    def copy_prefill(self, follower: ActiveSequence) -> None:
        """Records that it got a copy of its leader's row: it is ready to decode."""
        follower.leader = None
        follower.skip_cached(follower.prefill_tokens)
        self._start_decoding(follower)

    def restart_prefill(self, active: ActiveSequence) -> None:
        """Moves a running sequence back to prefilling."""
        prefilling, decoding = self._running_like(active)
        if active in decoding:
            decoding.remove(active)
            prefilling.append(active)

    def _start_decoding(self, active: ActiveSequence) -> None:
        prefilling, decoding = self._running_like(active)
        prefilling.remove(active)
        decoding.append(active)

    def _running_like(
        self, active: ActiveSequence
    ) -> tuple[list[ActiveSequence], list[ActiveSequence]]:
        """Those that prefill and those that decode, in the sequence's lane."""
        if active.request.background:
            return self._background.prefilling, self._background.decoding
        return self._prefilling, self._decoding
