"""Which sequences get a slot, and which prompt tokens the next step prefills. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlxmesh_engine.scheduling.fair_queue import FairQueue
from mlxmesh_engine.scheduling.long_prompt_budget import LongPromptBudget
from mlxmesh_engine.scheduling.prefill_budget import Backlog, PrefillBudget
from mlxmesh_engine.scheduling.request import SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.shared_prefill import can_follow, follows
from mlxmesh_engine.scheduling.step_times import PrefillTokens, StepTime


@dataclass(frozen=True, slots=True)
class PrefillSlice:
    """The next `count` tokens of one prompt."""

    active: ActiveSequence
    start: int
    count: int

    @property
    def first(self) -> bool:
        return self.start == self.active.cached_tokens

    @property
    def whole_prompt(self) -> bool:
        """Whether this is all of the prompt that is not cached."""
        return self.first and self.start + self.count == self.active.prefill_tokens

    @property
    def scored(self) -> range:
        """Positions after whose tokens the scores are needed, for log-probabilities."""
        needed = self.active.prompt_scores
        return range(max(self.start, needed.start), min(self.start + self.count, needed.stop))

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.active.tokens[self.start : self.start + self.count]


def count_tokens(slices: Iterable[PrefillSlice]) -> PrefillTokens:
    """The slices' tokens, by kind of prompt."""
    counts = [(slice_.count, slice_.active.long) for slice_ in slices]
    return PrefillTokens(
        long_tokens=sum(count for count, long in counts if long),
        other_tokens=sum(count for count, long in counts if not long),
    )


class Scheduler:
    """Moves sequences from waiting to prefilling to decoding; both of the latter are running.

    `kv_capacity_tokens` bounds the tokens that the running sequences may reach; None: no bound.
    """

    def __init__(
        self,
        *,
        max_running: int,
        prefill_tokens_per_step: int,
        prefill_slowdown: float = 1.7,
        kv_capacity_tokens: int | None = None,
    ) -> None:
        self.kv_capacity_tokens = kv_capacity_tokens
        self._max_running = max_running
        self._budget = PrefillBudget(prefill_tokens_per_step)
        self._long_budget = LongPromptBudget(
            slowdown=prefill_slowdown, max_tokens=prefill_tokens_per_step
        )
        self._waiting: FairQueue[ActiveSequence] = FairQueue()
        self._prefilling: list[ActiveSequence] = []
        self._decoding: list[ActiveSequence] = []
        self._waiting_tokens = 0
        self._running_tokens = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def oldest_waiting_s(self) -> float | None:
        """When the sequence that came to the queue first was submitted; None if none waits."""
        oldest = next(iter(self._waiting), None)
        return oldest.request.submitted_s if oldest is not None else None

    @property
    def running(self) -> int:
        """Sequences that have a slot."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def prefilling(self) -> bool:
        """Whether a running sequence has prompt tokens to prefill."""
        return bool(self._prefilling)

    def __iter__(self) -> Iterator[ActiveSequence]:
        yield from self._decoding
        yield from self._prefilling
        yield from self._waiting

    @property
    def reserved_tokens(self) -> int:
        """How many tokens all sequences, running or waiting, may reach."""
        return self._running_tokens + self._waiting_tokens

    def add(self, active: ActiveSequence) -> None:
        request = active.request
        self._waiting.push(
            active,
            caller=request.caller,
            priority=request.priority,
            cost=request.max_total_tokens,
            since_s=request.submitted_s,
        )
        self._waiting_tokens += request.max_total_tokens

    def remove(self, active: ActiveSequence) -> None:
        if self._waiting.remove(active):
            self._waiting_tokens -= active.request.max_total_tokens
            return
        for group in (self._decoding, self._prefilling):
            if active in group:
                group.remove(active)
                self._running_tokens -= active.request.max_total_tokens

    def admit(self, now_s: float) -> None:
        """Gives free slots to the next waiting sequences while the KV cache has memory for them.

        No sequence overtakes one that needs more memory than is free: it could starve.
        """
        while self.running < self._max_running and (active := self._waiting.peek()) is not None:
            if not self._has_memory_for(active):
                return
            self._waiting.pop()
            self._waiting_tokens -= active.request.max_total_tokens
            self._running_tokens += active.request.max_total_tokens
            active.admit(now_s)
            self._prefilling.append(active)

    def _has_memory_for(self, active: ActiveSequence) -> bool:
        needed = self._running_tokens + active.request.max_total_tokens
        return self.kv_capacity_tokens is None or needed <= self.kv_capacity_tokens

    def awaiting_prefill(self) -> list[ActiveSequence]:
        """The running sequences whose prefill has not started and waits for no other."""
        return [active for active in self._own_prefills() if not active.prefill_started]

    def _own_prefills(self) -> list[ActiveSequence]:
        """The sequences that do not wait for the prefill of another one with their prompt.

        A leader without a slot delays nobody: only one that is in prefill is sure to advance.
        """
        return [each for each in self._prefilling if not follows(each, self._prefilling)]

    def plan_prefill(self) -> list[PrefillSlice]:
        """The prompt tokens that the next step prefills.

        While sequences decode, the oldest long prompt advances by what the slowdown limit allows.
        The other prompts share the step's token budget. A short prompt never waits for long ones,
        and no prompt starves: the oldest one advances in every step.
        """
        counts: dict[SequenceKey, int] = {}
        prefilling = prompts = self._own_prefills()
        if self._decoding:
            prompts = [active for active in prefilling if not active.long]
            if long := next((active for active in prefilling if active.long), None):
                counts[long.key] = min(self._long_budget.next_tokens(), long.remaining_prefill)
        counts |= self._split_budget([active for active in prompts if active.remaining_prefill])
        return [
            PrefillSlice(active, active.prefilled, count)
            for active in prefilling
            if (count := counts.get(active.key, 0)) > 0 or active.remaining_prefill == 0
        ]

    def _split_budget(self, prompts: list[ActiveSequence]) -> dict[SequenceKey, int]:
        """The oldest prompt gets all it needs or half of the budget, then the shortest that fit.

        A part of a prompt is a pass of its own, so only one is cut: the oldest of those left over,
        and only for at least half of the budget.
        """
        if not prompts:
            return {}
        tokens = sum(active.remaining_prefill for active in prompts)
        budget = self._budget.tokens(Backlog(len(prompts), tokens, decoding=len(self._decoding)))
        oldest, *others = prompts
        counts = {oldest.key: min(max(1, budget // 2), oldest.remaining_prefill)}
        if oldest.remaining_prefill <= budget:
            counts[oldest.key] = oldest.remaining_prefill
        left = budget - counts[oldest.key]
        for active in sorted(others, key=lambda each: each.remaining_prefill):
            if active.remaining_prefill > left:
                break
            counts[active.key] = active.remaining_prefill
            left -= active.remaining_prefill
        cut = next(
            (each for each in prompts if counts.get(each.key) != each.remaining_prefill), None
        )
        if cut is not None and (cut is oldest or left >= budget // 2):
            done = counts.get(cut.key, 0)
            counts[cut.key] = min(done + left, cut.remaining_prefill)
        return counts

    def record_step(self, step: StepTime) -> None:
        """Fits the budgets to the duration of a step."""
        prefill = step.prefill
        self._budget.record(step.seconds, prefill.total, decoding=step.decoding)
        if step.decoding and not prefill.other_tokens:
            self._long_budget.record(step.seconds, prefill.long_tokens)

    def advance(self, done: PrefillSlice) -> bool:
        """Records that a slice was prefilled; True if its sequence is ready to decode."""
        active = done.active
        active.prefilled += done.count
        if active.remaining_prefill > 0:
            return False
        self._prefilling.remove(active)
        self._decoding.append(active)
        return True

    def followers(self, leader: ActiveSequence) -> list[ActiveSequence]:
        """The sequences that need a copy of this one's row, once it is prefilled."""
        return [each for each in self._prefilling if each.leader is leader and can_follow(each)]

    def copy_prefill(self, follower: ActiveSequence) -> None:
        """Records that it got a copy of its leader's row: it is ready to decode."""
        follower.leader = None
        follower.skip_cached(follower.prefill_tokens)
        self._prefilling.remove(follower)
        self._decoding.append(follower)

    def restart_prefill(self, active: ActiveSequence) -> None:
        """Moves a running sequence back to prefilling."""
        if active in self._decoding:
            self._decoding.remove(active)
            self._prefilling.append(active)
