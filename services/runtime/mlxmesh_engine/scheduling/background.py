"""Sequences that run with what the others leave: their queue, their rows, and their turns. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from mlxmesh_engine.scheduling.fair_queue import FairQueue
from mlxmesh_engine.scheduling.linear_cost import LinearCost
from mlxmesh_engine.scheduling.sequence import ActiveSequence

SHARE = 0.05
"""Background work may take this part of the time that foreground sequences decode."""
MEMORY_SHARE = 0.75
"""The part of the KV memory that they leave free is kept for sequences that arrive."""

_GROWTH = 1.1
_MIN_SLICE_TOKENS = 32
_INITIAL_SLICE_TOKENS = 32
# A pass that ends as soon as a foreground sequence arrives delays nobody.
_INTERRUPTIBLE_SLICE_S = 0.25
_MIN_SLICE_S = 0.01
_MAX_DEBT_S = 2.0


@dataclass(frozen=True, slots=True)
class BackgroundTurn:
    """What background sequences may do in one step."""

    decode: bool = False
    prefill: bool = False

    def __bool__(self) -> bool:
        return self.decode or self.prefill


class BackgroundPace:
    """Keeps the mean step of foreground sequences that decode below 1 + `SHARE` times its duration.

    Durations are those of whole steps, so that it does not matter when a device computes. A step
    with background work may exceed what was earned; the next ones then have none.
    """

    def __init__(self) -> None:
        self._baseline_s: float | None = None
        self._earned_s = 0.0
        self._prefilled_last = False

    @property
    def baseline_s(self) -> float | None:
        """The duration of a step without background work; None until one was measured."""
        return self._baseline_s

    def record(self, step_s: float, *, background: bool) -> None:
        """Records a step of foreground sequences that only decode."""
        if not background:
            # The recent minimum: other work on the machine must not count as decoding.
            max_s = step_s if self._baseline_s is None else self._baseline_s * _GROWTH
            self._baseline_s = min(step_s, max_s)
        if self._baseline_s is None:
            return
        used_s = max(0.0, step_s - self._baseline_s) if background else 0.0
        self._earned_s += SHARE * self._baseline_s - used_s
        self._earned_s = min(max(self._earned_s, -_MAX_DEBT_S), self._baseline_s)

    def turn(self, *, prefilling: bool, decoding: bool) -> BackgroundTurn:
        """The work beside foreground sequences that decode: a decode step or a slice, in turn."""
        if self._baseline_s is None or self._earned_s <= 0:
            return BackgroundTurn()
        prefill = prefilling and not (decoding and self._prefilled_last)
        self._prefilled_last = prefill
        return BackgroundTurn(decode=decoding and not prefill, prefill=prefill)


class BackgroundSlices:
    """How many prompt tokens one pass of background prefill has.

    As many as take about a decode step; more if the pass can be interrupted, but fewer again while
    passes do not come to their end.
    """

    def __init__(self, max_tokens: int, *, interruptible: bool) -> None:
        self._max_tokens = max_tokens
        self._interruptible = interruptible
        self._cost = LinearCost()
        self._interruptible_s = _INTERRUPTIBLE_SLICE_S

    def tokens(self, decode_s: float | None) -> int:
        """decode_s: the duration of a decode step, None if unknown."""
        if not self._cost.measured:
            return min(self._max_tokens, _INITIAL_SLICE_TOKENS)
        slice_s = max(decode_s or 0.0, _MIN_SLICE_S)
        if self._interruptible:
            slice_s = max(slice_s, self._interruptible_s)
        fitting = max(self._cost.tokens_within(slice_s), _MIN_SLICE_TOKENS)
        return int(min(fitting, self._max_tokens))

    def record(self, seconds: float, tokens: int) -> None:
        """Records how long a pass took that ran to its end."""
        self._cost.record(seconds, tokens)
        self._interruptible_s = min(self._interruptible_s * _GROWTH, _INTERRUPTIBLE_SLICE_S)

    def interrupted(self) -> None:
        """A pass was interrupted: what it computed is lost, so the next ones are shorter."""
        self._interruptible_s = max(self._interruptible_s / 2, _MIN_SLICE_S)


class BackgroundLane:
    """Who waits, prefills and decodes in the background; whoever pauses keeps its memory."""

    def __init__(self) -> None:
        self.waiting: FairQueue[ActiveSequence] = FairQueue()
        self.parked: list[ActiveSequence] = []
        """Waiting for their adapters."""
        self.prefilling: list[ActiveSequence] = []
        self.decoding: list[ActiveSequence] = []
        self.running_tokens = 0
        """How many tokens those with keys and values may reach."""

    def __iter__(self) -> Iterator[ActiveSequence]:
        yield from self.decoding
        yield from self.prefilling
        yield from self.waiting
        yield from self.parked

    @property
    def running(self) -> int:
        """Sequences with keys and values, also while they pause."""
        return len(self.prefilling) + len(self.decoding)

    @property
    def holds_slots(self) -> bool:
        """Whether some of them have slots of adapters."""
        return any(active.slot for active in (*self.prefilling, *self.decoding))

    def add(self, active: ActiveSequence) -> None:
        request = active.request
        self.waiting.push(
            active,
            caller=request.caller,
            priority=request.priority,
            cost=request.max_total_tokens,
            since_s=request.submitted_s,
        )

    def remove(self, active: ActiveSequence) -> None:
        if self.waiting.remove(active):
            return
        if active in self.parked:
            self.parked.remove(active)
            return
        for group in (self.decoding, self.prefilling):
            if active in group:
                group.remove(active)
                self.running_tokens -= active.request.max_total_tokens

    def admit_next(self, now_s: float) -> None:
        """Gives the next waiting sequence a row."""
        if (active := self.waiting.pop()) is not None:
            active.admit(now_s)
            self.prefilling.append(active)
            self.running_tokens += active.request.max_total_tokens

    def park_next(self) -> None:
        """Lets the others overtake the next waiting sequence, whose adapter is not there."""
        if (active := self.waiting.peek()) is not None:
            self.waiting.remove(active)
            self.parked.append(active)

    def unpark(self) -> None:
        """Moves those that wait for their adapters back to the queue."""
        parked, self.parked = self.parked, []
        for active in parked:
            self.add(active)

    def requeue(self, *, with_slot: bool = False) -> ActiveSequence:
        """Moves the sequence that started last back to the queue; there must be a running one.

        with_slot: of those that have the slot of an adapter. Its memory is given up, its tokens are
        kept.
        """
        running = [*self.decoding, *self.prefilling]
        active = [each for each in running if each.slot or not with_slot][-1]
        self.remove(active)
        self.add(active)
        return active
