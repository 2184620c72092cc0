"""How fast steps are: their durations, the token rate, and when tokens are sent."""

from collections import deque
from dataclasses import dataclass

from mlxmesh_engine.instruments import BATCH_SIZE, STEP_DURATION
from mlxmesh_engine.scheduling.request import StepOutputs
from mlxmesh_shared.telemetry.metrics import BucketCounts


@dataclass(frozen=True, slots=True)
class Read:
    """The prompt tokens that one turn started to read."""

    long_tokens: int = 0
    """Of long prompts."""
    other_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.long_tokens + self.other_tokens


class DecodePace:
    """Fed turn by turn: first whether a step ended, then what is read."""

    def __init__(self) -> None:
        self._reads: deque[Read] = deque(maxlen=2)
        self._last_end_s: float | None = None

    def step_ended(self, now_s: float) -> tuple[float, Read] | None:
        """Seconds since the step before, and what was read between; None where that is unclear."""
        last_end_s, self._last_end_s = self._last_end_s, now_s
        if last_end_s is None or len(self._reads) < 2:
            return None
        one, other = self._reads
        if bool(one.tokens) != bool(other.tokens):
            return None
        return now_s - last_end_s, Read(
            max(one.long_tokens, other.long_tokens), max(one.other_tokens, other.other_tokens)
        )

    def no_step_ended(self) -> None:
        self._last_end_s = None
        self._reads.clear()

    def reads(self, read: Read) -> None:
        self._reads.append(read)


_WINDOW_S = 1.0


class TokenRate:
    """A sliding window; time is given, never taken."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._tokens = 0

    def add(self, now_s: float, tokens: int) -> None:
        self._steps.append((now_s, tokens))
        self._tokens += tokens

    def per_second(self, now_s: float) -> float:
        while self._steps and now_s - self._steps[0][0] > _WINDOW_S:
            self._tokens -= self._steps.popleft()[1]
        return self._tokens / _WINDOW_S


class StepCounts:
    """Told of each turn of the loop; a step that follows an idle turn has no duration."""

    def __init__(self) -> None:
        self.durations = BucketCounts(STEP_DURATION.bounds)
        self.batch_sizes = BucketCounts(BATCH_SIZE.bounds)
        self.tokens = 0
        """Of all steps."""
        self._last_end_s: float | None = None

    def turned(self, now_s: float, rows: int) -> None:
        """A turn ended at now_s; `rows` sequences were decoded in it, 0 for no step."""
        last_end_s, self._last_end_s = self._last_end_s, now_s if rows else None
        if not rows:
            return
        self.tokens += rows
        self.batch_sizes.record(rows)
        if last_end_s is not None:
            self.durations.record(now_s - last_end_s)


class TokenInterval:
    """Lets tokens of steps faster than interval_s wait for the next ones, at most about so long.

    A message costs every process on its way more than a token does. Whatever a reader waits for,
    the first token and the end among it, goes out at once.
    """

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._told_s = 0.0
        self._held: StepOutputs = {}

    def release(self, outputs: StepOutputs, now_s: float) -> StepOutputs:
        """What to tell now, of earlier turns too; nothing while all of it may wait."""
        if not self._held:
            self._held = outputs
        else:
            for stream_id, updates in outputs.items():
                self._held.setdefault(stream_id, []).extend(updates)
        soon = now_s - self._told_s < self._interval_s
        if soon and all(update.may_wait for updates in outputs.values() for update in updates):
            return {}
        self._told_s = now_s
        held, self._held = self._held, {}
        return held
