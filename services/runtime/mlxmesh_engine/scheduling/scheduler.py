"""Who runs next: pure decisions, no clock of its own, no MLX."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlxmesh_engine.scheduling.fair_queue import FairQueue
from mlxmesh_engine.scheduling.pace import Read
from mlxmesh_engine.scheduling.prefill_budget import LongPromptBudget, PrefillBudget
from mlxmesh_engine.scheduling.request import SequenceKey, SequenceRequest, Timings

# Reading a shorter prompt at once is over soon, and its stream begins to count.
_LONG_PROMPT_TOKENS = 256


class ActiveSequence:
    """One sequence in the engine and how far it has come; owned by the MLX thread."""

    def __init__(self, request: SequenceRequest) -> None:
        self.request = request
        self.tokens = request.prompt + request.generated
        self.output: list[int] = []
        """The tokens collected here."""
        self.cached_tokens = 0
        """How many of `tokens`, from the first on, need not be read."""
        self.looked_up: int | None = None
        """The version of the prefix cache that said so."""
        self.prefilled = 0
        self.launched = len(request.generated)
        """Tokens whose computation was started, which is the position of the next draw."""
        self.ended = False
        self.isolated = request.isolated
        """Whether it goes through the model apart from all others."""
        self._admitted_s: float | None = None
        self._first_token_s: float | None = None
        self._last_token_s = request.submitted_s

    @property
    def key(self) -> SequenceKey:
        return self.request.key

    @property
    def prefill_tokens(self) -> int:
        """Tokens to read before decoding; the last one is the first decode step's input."""
        return len(self.tokens) - 1

    @property
    def collected(self) -> int:
        """Tokens made so far, here and elsewhere."""
        return len(self.request.generated) + len(self.output)

    @property
    def long(self) -> bool:
        """Whether reading its prompt at once would stall those that decode."""
        return self.prefill_tokens - self.cached_tokens > _LONG_PROMPT_TOKENS

    @property
    def unread(self) -> bool:
        """Whether reading its prompt has not begun."""
        return self.prefilled == self.cached_tokens

    @property
    def cached_prompt_tokens(self) -> int:
        return min(self.cached_tokens, len(self.request.prompt))

    @property
    def held_tokens(self) -> tuple[int, ...]:
        """What its row of the decode batch's cache holds: all tokens that went into the model."""
        held = len(self.request.prompt) + self.launched - 1
        return (*self.request.prompt, *self.request.generated, *self.output)[:held]

    def start_after(self, cached_tokens: int) -> None:
        """Skips so many of the tokens to read."""
        self.cached_tokens = self.prefilled = cached_tokens

    def isolate(self) -> None:
        """Begins again by itself, after all that it has made; nothing may be under way for it."""
        self.isolated = True
        self.tokens = self.request.prompt + self.request.generated + tuple(self.output)
        self.looked_up = None
        self.start_after(0)

    def admit(self, now_s: float) -> None:
        self._admitted_s = now_s

    def collect(self, token: int, now_s: float) -> None:
        if self._first_token_s is None:
            self._first_token_s = now_s
        self.output.append(token)
        self._last_token_s = now_s

    def timings(self, ended_s: float) -> Timings:
        """What had not begun when it ended took no time."""
        admitted_s = ended_s if self._admitted_s is None else self._admitted_s
        if self._first_token_s is None:
            first_token_s = last_token_s = ended_s
        else:
            first_token_s, last_token_s = self._first_token_s, self._last_token_s
        return Timings(
            queue_ms=(admitted_s - self.request.submitted_s) * 1e3,
            prefill_ms=(first_token_s - admitted_s) * 1e3,
            decode_ms=(last_token_s - first_token_s) * 1e3,
            cached_tokens=self.cached_prompt_tokens,
            output_tokens=len(self.output),
        )


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
        """Whether this is all that there is to read."""
        return self.first and self.start + self.count == self.active.prefill_tokens

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.active.tokens[self.start : self.start + self.count]


def read_of(slices: Iterable[PrefillSlice]) -> Read:
    """The slices' tokens, by kind."""
    counts = [(slice_.count, slice_.active.long) for slice_ in slices]
    return Read(
        long_tokens=sum(count for count, long in counts if long),
        other_tokens=sum(count for count, long in counts if not long),
    )


class Scheduler:
    """Moves sequences from waiting over prefilling to running.

    `kv_capacity_tokens` bounds the tokens that those with a place may come to; None: it does not.
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
        self._long_budget = LongPromptBudget(slowdown=prefill_slowdown)
        self._waiting: FairQueue[ActiveSequence] = FairQueue()
        self._waiting_tokens = 0
        self._placed_tokens = 0
        self._prefilling: list[ActiveSequence] = []
        self._running: list[ActiveSequence] = []

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Sequences that have a place, being prefilled or decoded."""
        return len(self._prefilling) + len(self._running)

    @property
    def reading(self) -> bool:
        """Whether there are prompts to read for those that have a place."""
        return bool(self._prefilling)

    def __iter__(self) -> Iterator[ActiveSequence]:
        yield from self._running
        yield from self._prefilling
        yield from self._waiting

    @property
    def promised_tokens(self) -> int:
        """How many tokens all sequences may come to."""
        return self._placed_tokens + self._waiting_tokens

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
        for group in (self._running, self._prefilling):
            if active in group:
                group.remove(active)
                self._placed_tokens -= active.request.max_total_tokens

    def admit(self, now_s: float) -> None:
        """Gives free places to those whose turn it is, as long as there is memory for them.

        Nobody passes one that needs more memory than is left, or it might wait for ever.
        """
        while self.running < self._max_running and (active := self._waiting.peek()) is not None:
            if not self._has_memory_for(active):
                return
            self._waiting.pop()
            self._waiting_tokens -= active.request.max_total_tokens
            self._placed_tokens += active.request.max_total_tokens
            active.admit(now_s)
            self._prefilling.append(active)

    def _has_memory_for(self, active: ActiveSequence) -> bool:
        needed = self._placed_tokens + active.request.max_total_tokens
        return self.kv_capacity_tokens is None or needed <= self.kv_capacity_tokens

    def unread(self) -> list[ActiveSequence]:
        """Those that have a place and of whom nothing was read yet."""
        return [active for active in self._prefilling if active.unread]

    def plan_prefill(self) -> list[PrefillSlice]:
        """What the next step reads.

        While others decode, the oldest long prompt advances by what they can bear; apart from that,
        half of the step's token budget is the oldest prompt's, and the rest the shortest ones'. So
        a short prompt never waits for long ones, and no prompt waits for ever.
        """
        counts: dict[SequenceKey, int] = {}
        sharing = self._prefilling
        if self._running:
            sharing = [active for active in self._prefilling if not active.long]
            if long := next((active for active in self._prefilling if active.long), None):
                counts[long.key] = self._share(long, self._long_budget.take())
        counts |= self._shares(sharing)
        return [
            PrefillSlice(active, active.prefilled, count)
            for active in self._prefilling
            if (count := counts.get(active.key, 0)) > 0 or _remaining(active) == 0
        ]

    def _shares(self, prompts: list[ActiveSequence]) -> dict[SequenceKey, int]:
        if not prompts:
            return {}
        oldest, *others = prompts
        budget_tokens = self._budget.tokens(decoding=bool(self._running))
        counts = {oldest.key: self._share(oldest, max(1, budget_tokens // 2))}
        left = budget_tokens - counts[oldest.key]
        for active in sorted(others, key=_remaining):
            counts[active.key] = self._share(active, left)
            left -= counts[active.key]
        counts[oldest.key] += min(left, _remaining(oldest) - counts[oldest.key])
        return counts

    def note_prefill_took(self, step_s: float, tokens: int, *, decoding: bool) -> None:
        """Fits the next steps' token budget to how long one took that prefilled so many tokens."""
        self._budget.note(step_s, tokens, decoding=decoding)

    def note_decode_took(self, step_s: float, read: Read) -> None:
        """Fits what a step may read of long prompts to how long one took beside such a read."""
        if not read.other_tokens:
            self._long_budget.note(step_s, read.long_tokens)

    def advance(self, done: PrefillSlice) -> bool:
        """Notes that a slice was read; True when its sequence is ready to decode."""
        active = done.active
        active.prefilled += done.count
        if _remaining(active) > 0:
            return False
        self._prefilling.remove(active)
        self._running.append(active)
        return True

    def read_again(self, active: ActiveSequence) -> None:
        """Sends one that has a place back to have its prompt read once more."""
        if active in self._running:
            self._running.remove(active)
            self._prefilling.append(active)

    @staticmethod
    def _share(active: ActiveSequence, tokens: int) -> int:
        return min(tokens, _remaining(active))


def _remaining(active: ActiveSequence) -> int:
    return active.prefill_tokens - active.prefilled
