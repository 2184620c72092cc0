"""The inputs that wait, and which of them are computed together. Pure."""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from mlxmesh_engine.encoder.inputs import EncodeCall, TokenInput
from mlxmesh_engine.scheduling.fair_queue import FairQueue

_TURN_INPUTS = 16
"""Inputs that a call adds to the window in its turn."""
_WINDOW_BATCHES = 4
"""The window has about as many tokens as this many batches."""
_SIMILAR = 0.75
"""The shortest input of a batch is at least this part of the longest..."""
_SHORT_TOKENS = 16
"""...or shorter than it by at most this many tokens."""


@dataclass(frozen=True, slots=True)
class Place:
    """One input of a call."""

    call: EncodeCall
    index: int

    @property
    def input(self) -> TokenInput:
        return self.call.inputs[self.index]

    @property
    def length(self) -> int:
        return self.input.length


@dataclass(slots=True, eq=False)
class _Turns:
    """The inputs of a call that are not in the window yet, the longest first."""

    call: EncodeCall
    left: deque[int] = field(default_factory=deque[int])

    def __post_init__(self) -> None:
        order = sorted(range(len(self.call.inputs)), key=lambda i: -self.call.inputs[i].length)
        self.left.extend(order)

    @property
    def next_tokens(self) -> int:
        """The tokens of its next turn."""
        count = min(_TURN_INPUTS, len(self.left))
        return sum(self.call.inputs[self.left[i]].length for i in range(count))

    def take(self) -> Iterator[Place]:
        for _ in range(min(_TURN_INPUTS, len(self.left))):
            yield Place(self.call, self.left.popleft())


class _Lane:
    """The waiting calls of one rank, and the window that batches are cut from.

    Calls enter the window by turns of a few inputs, callers in equal shares of tokens, so that one
    with many inputs delays others by a window at most. The oldest input of the window is in the
    next batch, with those of similar length, whoever they belong to.
    """

    def __init__(self) -> None:
        self._calls: FairQueue[_Turns] = FairQueue()
        self._window: dict[Place, None] = {}
        self._window_tokens = 0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._calls) + len(self._window)

    def add(self, call: EncodeCall) -> None:
        self._push(_Turns(call))

    def _push(self, turns: _Turns) -> None:
        # By the number of its turn: the calls of one caller take turns too.
        self._turn += 1
        self._calls.push(
            turns,
            caller=turns.call.caller,
            priority=0,
            cost=turns.next_tokens,
            since_s=float(self._turn),
        )

    def drop_ended(self) -> None:
        """Removes the inputs of calls that nobody waits for."""
        for turns in [turns for turns in self._calls if turns.call.ended]:
            self._calls.remove(turns)
        for place in [place for place in self._window if place.call.ended]:
            self._remove(place)

    def pop(self, max_tokens: int) -> list[Place]:
        """The next batch, of at most max_tokens tokens with padding; at least one input."""
        self._fill(max_tokens * _WINDOW_BATCHES)
        if not self._window:
            return []
        first = next(iter(self._window))
        batch = _similar(first, list(self._window), max_tokens)
        for place in batch:
            self._remove(place)
        return batch

    def return_alone(self, places: list[Place]) -> None:
        """Puts inputs back to the front of the window."""
        self._window = dict.fromkeys(places) | self._window
        self._window_tokens += sum(place.length for place in places)

    def _fill(self, tokens: int) -> None:
        while self._window_tokens < tokens and (turns := self._calls.pop()) is not None:
            for place in turns.take():
                self._window[place] = None
                self._window_tokens += place.length
            if turns.left:
                self._push(turns)

    def _remove(self, place: Place) -> None:
        del self._window[place]
        self._window_tokens -= place.length


class EncodeQueue:
    """All inputs that wait: those of background calls only run when there are no others."""

    def __init__(self) -> None:
        self._foreground, self._background = _Lane(), _Lane()
        self._alone: set[Place] = set()

    def __bool__(self) -> bool:
        return bool(self._foreground or self._background)

    def add(self, call: EncodeCall) -> None:
        self._lane(call).add(call)

    def drop_ended(self) -> None:
        self._foreground.drop_ended()
        self._background.drop_ended()

    def pop(self, max_tokens: int) -> list[Place]:
        """The next batch; empty if nothing waits."""
        lane = self._foreground or self._background
        batch = lane.pop(max_tokens)
        single = next((place for place in batch if place in self._alone), None)
        if single is None:
            return batch
        self._alone.discard(single)
        lane.return_alone([place for place in batch if place != single])
        return [single]

    def retry_alone(self, batch: list[Place]) -> None:
        """Returns the inputs of a batch that failed: each is computed in a batch of its own."""
        self._alone |= set(batch)
        for place in reversed(batch):
            self._lane(place.call).return_alone([place])

    def _lane(self, call: EncodeCall) -> _Lane:
        return self._background if call.background else self._foreground


def _similar(first: Place, window: list[Place], max_tokens: int) -> list[Place]:
    """`first` with as many inputs of similar length as fit, the nearest in length first."""
    batch = [first]
    shortest = longest = first.length
    for place in sorted(window, key=lambda each: abs(each.length - first.length)):
        low, high = min(shortest, place.length), max(longest, place.length)
        if place == first:
            continue
        if high * (len(batch) + 1) > max_tokens:
            break
        if low < high * _SIMILAR and high - low > _SHORT_TOKENS:
            break
        shortest, longest = low, high
        batch.append(place)
    return batch


class BatchSize:
    """How many tokens a batch may have, so that it takes about `step_s` seconds.

    Small models on a fast device need large batches, large models on a slow one small ones, so
    that calls which arrive meanwhile do not wait for long.
    """

    def __init__(
        self, *, step_s: float = 0.2, min_tokens: int = 256, max_tokens: int = 16_384
    ) -> None:
        self._step_s = step_s
        self._min, self._max = min_tokens, max_tokens
        self.tokens = min(1024, max_tokens)

    def record(self, tokens: int, duration_s: float) -> None:
        """A batch with `tokens` tokens, padding included, took this long.

        Small batches say nothing about large ones; a step changes the size by 2 at most.
        """
        if duration_s <= 0 or tokens < self.tokens / 2:
            return
        wanted = tokens * self._step_s / duration_s
        limited = min(max(wanted, self.tokens / 2), self.tokens * 2)
        smoothed = math.sqrt(self.tokens * limited)
        self.tokens = int(min(max(smoothed, self._min), self._max))
