"""Which prompt tokens the next step prefills, by what earlier steps took. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlxmesh_engine.scheduling.background import BackgroundSlices
from mlxmesh_engine.scheduling.long_prompt_budget import LongPromptBudget
from mlxmesh_engine.scheduling.prefill_budget import Backlog, PrefillBudget
from mlxmesh_engine.scheduling.request import SequenceKey
from mlxmesh_engine.scheduling.sequence import ActiveSequence
from mlxmesh_engine.scheduling.shared_prefill import own_prefills
from mlxmesh_engine.scheduling.step_times import PrefillTokens, StepTime


@dataclass(frozen=True, slots=True)
class PrefillSlice:
    """The next `count` tokens of one prompt."""

    active: ActiveSequence
    start: int
    count: int

    @classmethod
    def next(cls, active: ActiveSequence, count: int) -> "PrefillSlice":
        """At most `count` tokens: it ends where prefill pauses."""
        start, pause_at = active.prefilled, active.pause_at
        if pause_at is not None and start < pause_at < start + count:
            count = pause_at - start
        return cls(active, start, count)

    @property
    def pauses(self) -> bool:
        """Whether prefill pauses after it."""
        return self.count > 0 and self.start + self.count == self.active.pause_at

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


class PrefillPlanner:
    """Divides the tokens that a step may prefill among the prompts."""

    def __init__(self, max_tokens: int, *, slowdown: float, interruptible: bool) -> None:
        """max_tokens: of one step. slowdown: of decode steps, by long prompts beside them.
        interruptible: whether a pass of background work ends when another sequence arrives.
        """
        self._budget = PrefillBudget(max_tokens)
        self._long_budget = LongPromptBudget(slowdown=slowdown, max_tokens=max_tokens)
        self._background = BackgroundSlices(max_tokens, interruptible=interruptible)

    def plan(self, prefilling: Sequence[ActiveSequence], *, decoding: int) -> list[PrefillSlice]:
        """The slices of the next step. decoding: how many sequences decode in it.

        While sequences decode, the oldest long prompt advances by what the slowdown limit allows.
        The other prompts share the step's token budget. A short prompt never waits for long ones,
        and no prompt starves: the oldest one advances in every step.
        """
        counts: dict[SequenceKey, int] = {}
        own = prompts = own_prefills(prefilling)
        if decoding:
            prompts = [active for active in own if not active.long]
            if long := next((active for active in own if active.long), None):
                counts[long.key] = min(self._long_budget.next_tokens(), long.remaining_prefill)
        waiting = [active for active in prompts if active.remaining_prefill]
        counts |= self._split_budget(waiting, decoding)
        return [
            PrefillSlice.next(active, count)
            for active in own
            if (count := counts.get(active.key, 0)) > 0 or active.remaining_prefill == 0
        ]

    def _split_budget(self, prompts: list[ActiveSequence], decoding: int) -> dict[SequenceKey, int]:
        """The oldest prompt gets all it needs or half of the budget, then the shortest that fit.

        A part of a prompt is a pass of its own, so only one is cut: the oldest of those left over,
        and only for at least half of the budget.
        """
        if not prompts:
            return {}
        tokens = sum(active.remaining_prefill for active in prompts)
        budget = self._budget.tokens(Backlog(len(prompts), tokens, decoding=decoding))
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

    def record(self, step: StepTime) -> None:
        """Fits the budgets to the duration of a step."""
        prefill = step.prefill
        self._budget.record(step.seconds, prefill.total, decoding=step.decoding)
        if step.decoding and not prefill.other_tokens:
            self._long_budget.record(step.seconds, prefill.long_tokens)

    def plan_background(
        self, prefilling: Sequence[ActiveSequence], decode_s: float | None
    ) -> list[PrefillSlice]:
        """The slices of the next pass of background prefill, the oldest prompts first.

        decode_s: the duration of a decode step, None if unknown.
        """
        left = self._background.tokens(decode_s)
        slices: list[PrefillSlice] = []
        for active in own_prefills(prefilling):
            if left <= 0:
                break
            count = min(left, active.remaining_prefill)
            slices.append(PrefillSlice.next(active, count))
            left -= count
        return slices

    def record_background(self, seconds: float, tokens: int) -> None:
        """Records how long the passes of a background plan took."""
        if tokens:
            self._background.record(seconds, tokens)

    def interrupted_background(self) -> None:
        """Call it when a pass of background prefill was interrupted."""
        self._background.interrupted()
