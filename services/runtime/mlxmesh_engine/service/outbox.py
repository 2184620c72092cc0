"""Coalesces outputs before they are sent: of short steps, and for readers that are behind."""

import asyncio
import itertools

from mlxmesh_engine.scheduling.request import Load, StepOutputs, Update

_MAX_PENDING = 4096
# Log-probabilities in one message, about 8 bytes each: a long prompt's would exceed its limit.
_MAX_LOGPROBS = 2**18


class OutputInterval:
    """Delays tokens of steps that are faster than interval_s, so that messages carry several.

    A message costs every process on its way more than a token does. Updates that a reader waits
    for, such as the first token and the last, are never delayed.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_release_s = 0.0
        self._delayed: StepOutputs = {}

    def release(self, outputs: StepOutputs, now_s: float) -> StepOutputs:
        """Adds a step's outputs; returns everything to send now, or nothing while all may wait."""
        if not self._delayed:
            self._delayed = outputs
        else:
            for stream_id, updates in outputs.items():
                self._delayed.setdefault(stream_id, []).extend(updates)
        early = now_s - self._last_release_s < self._interval_s
        if early and all(update.deferrable for updates in outputs.values() for update in updates):
            return {}
        self._last_release_s = now_s
        delayed, self._delayed = self._delayed, {}
        return delayed


class Outbox:
    """The pending outputs of one Execute stream, in bounded memory.

    While the reader is behind, all updates of a sequence are merged into one, up to the limit of
    log-probabilities. Used on the event loop only.
    """

    def __init__(self) -> None:
        self._pending: list[Update] = []
        self._mergeable: dict[int, int] = {}
        """Index in `_pending` of each sequence's update that later ones are merged into."""
        self._load: Load | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = False

    def put(self, updates: list[Update], load: Load | None = None) -> None:
        for update in updates:
            index = self._mergeable.pop(update.sequence_id, None)
            if index is None or not self._fits(index, update):
                index = len(self._pending)
                self._pending.append(update)
            else:
                self._pending[index] = self._pending[index].followed_by(update)
            if not update.last:
                self._mergeable[update.sequence_id] = index
        self._load = load or self._load
        self._signal()

    def put_unmerged(self, update: Update) -> None:
        """Adds an update that must not mix with those of an active sequence of the same id."""
        self._pending.append(update)
        self._signal()

    def close(self) -> None:
        """Ends the outputs: `get` returns the pending ones, then None."""
        self._closed = True
        self._readable.set()

    async def wait_writable(self) -> None:
        """Returns once the reader has caught up enough for more commands."""
        await self._writable.wait()

    async def get(self) -> tuple[list[Update], Load | None] | None:
        """Waits for outputs; returns the pending ones, with many log-probabilities only the first.

        None once closed and empty.
        """
        await self._readable.wait()
        if not self._pending and self._closed:
            return None
        pending = self._pop_message()
        self._mergeable.clear()
        if not self._closed and not self._pending:
            self._readable.clear()
        self._writable.set()
        return pending, self._load

    def _fits(self, index: int, update: Update) -> bool:
        return _count_logprobs(self._pending[index]) + _count_logprobs(update) <= _MAX_LOGPROBS

    def _pop_message(self) -> list[Update]:
        """As many updates as one message may have, at least one."""
        totals = itertools.accumulate(_count_logprobs(update) for update in self._pending)
        fitting = sum(1 for total in totals if total <= _MAX_LOGPROBS)
        stop = max(1, fitting)
        popped, self._pending = self._pending[:stop], self._pending[stop:]
        return popped

    def _signal(self) -> None:
        self._readable.set()
        if len(self._pending) >= _MAX_PENDING:
            self._writable.clear()


def _count_logprobs(update: Update) -> int:
    of_tokens, of_prompt = update.logprobs, update.prompt_logprobs
    return (len(of_tokens.chosen) + len(of_tokens.top) if of_tokens else 0) + (
        len(of_prompt.chosen) + len(of_prompt.top) if of_prompt else 0
    )
