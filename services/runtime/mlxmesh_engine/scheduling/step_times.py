"""Attributes the time between two steps to what the device computed in it. Pure."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PrefillTokens:
    """How many prompt tokens one step prefills."""

    long_tokens: int = 0
    """Tokens of long prompts."""
    other_tokens: int = 0

    @property
    def total(self) -> int:
        return self.long_tokens + self.other_tokens


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long the device took for a prefill, a decode step, or the two together."""

    seconds: float
    prefill: PrefillTokens
    decoding: bool
    """Whether it holds a decode step."""


@dataclass(frozen=True, slots=True)
class StepWork:
    """What one step launched."""

    decoding: bool
    """Whether foreground sequences decode."""
    prefilling: bool
    """Whether foreground prompts are prefilled."""
    background: bool


class StepDurations:
    """Times the steps in which foreground sequences only decode. overlapping: as for StepTimes."""

    def __init__(self, *, overlapping: bool) -> None:
        self._steps: deque[StepWork] = deque(maxlen=2 if overlapping else 1)
        self._began_s = 0.0

    def began(self, now_s: float) -> tuple[float, bool] | None:
        """The duration of the last step, and whether it had background work; None for others."""
        began_s, self._began_s = self._began_s, now_s
        steps = self._steps
        full = len(steps) == steps.maxlen
        if not full or not all(step.decoding and not step.prefilling for step in steps):
            return None
        return now_s - began_s, any(step.background for step in steps)

    def launched(self, work: StepWork) -> None:
        self._steps.append(work)


class StepTimes:
    """Call for each step first `ended` or `reset`, then `prefill_started`.

    `overlapping`: the device still computes when a launch returns, as a GPU does. Then the last
    prefill or the one before it ran in the interval: the larger one counts.
    """

    def __init__(self, *, overlapping: bool) -> None:
        self._prefills: deque[PrefillTokens] = deque(maxlen=2 if overlapping else 1)
        self._last_end_s: float | None = None

    def ended(self, now_s: float, *, decoding: bool) -> StepTime | None:
        """The work since the previous end; None if there was none, or if it is ambiguous.

        If nothing decoded, the device must have finished all prefill.
        """
        last_end_s, self._last_end_s = self._last_end_s, now_s
        prefills = list(self._prefills)
        if not decoding:
            self._prefills.clear()
            prefills = [each for each in prefills[-1:] if each.total]
        elif len(prefills) < (self._prefills.maxlen or 0):
            return None
        if last_end_s is None or len({bool(each.total) for each in prefills}) != 1:
            return None
        prefill = PrefillTokens(
            max(each.long_tokens for each in prefills), max(each.other_tokens for each in prefills)
        )
        return StepTime(now_s - last_end_s, prefill, decoding)

    def reset(self) -> None:
        """The time until now cannot be attributed: the next interval has no beginning."""
        self._last_end_s = None
        self._prefills.clear()

    def prefill_started(self, prefill: PrefillTokens) -> None:
        self._prefills.append(prefill)
