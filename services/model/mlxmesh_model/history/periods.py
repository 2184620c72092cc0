"""Sums of outcomes by version and period. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from mlxmesh_model.outcomes.outcome import Outcome, Status
from mlxmesh_shared.telemetry import histograms

HOUR_S = 3600
DAY_S = 86_400


class Resolution(Enum):
    """The length of the periods that a caller wants."""

    HOUR = "hour"
    DAY = "day"
    TOTAL = "total"


class PeriodKey(NamedTuple):
    """What outcomes are summed by."""

    model: str
    version: int
    length_s: int
    start_s: int
    """Unix time; hours and days are those of UTC."""

    @property
    def end_s(self) -> int:
        return self.start_s + self.length_s


@dataclass(slots=True)
class Amounts:
    """A sum. The contract documents the fields."""

    requests: int = 0
    errors: int = 0
    refused: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    device_us: int = 0
    cost: float = 0.0
    ttft: Counter[int] = field(default_factory=Counter[int])
    """Histograms of mlxmesh_shared."""
    tpot: Counter[int] = field(default_factory=Counter[int])

    def add(self, other: "Amounts") -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.refused += other.refused
        self.cancelled += other.cancelled
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.device_us += other.device_us
        self.cost += other.cost
        self.ttft.update(other.ttft)
        self.tpot.update(other.tpot)


Sums = dict[PeriodKey, Amounts]


@dataclass(frozen=True)
class TimeRange:
    """From `start_s` until `end_s`, Unix times."""

    start_s: float
    end_s: float


def by_hour(outcomes: Iterable[Outcome]) -> Sums:
    """The sums of outcomes by the hour in which they ended."""
    sums: Sums = {}
    for outcome in outcomes:
        start_s = _floor(outcome.end_time.timestamp(), HOUR_S)
        key = PeriodKey(outcome.model, outcome.version, HOUR_S, start_s)
        sums.setdefault(key, Amounts()).add(_amounts(outcome))
    return sums


def by_day(hours: Mapping[PeriodKey, Amounts]) -> Sums:
    """The sums of hours by day."""
    sums: Sums = {}
    for key, amounts in hours.items():
        day = key._replace(length_s=DAY_S, start_s=_floor(key.start_s, DAY_S))
        sums.setdefault(day, Amounts()).add(amounts)
    return sums


def summed(
    stored: Mapping[PeriodKey, Amounts], resolution: Resolution, during: TimeRange
) -> list[tuple[PeriodKey, Amounts]]:
    """The periods of a resolution, by start and version; a stored day is not split into hours."""
    sums: Sums = {}
    for key, amounts in stored.items():
        sums.setdefault(_period(key, resolution, during), Amounts()).add(amounts)
    return sorted(sums.items(), key=lambda item: (item[0].start_s, item[0].version))


def whole_periods(during: TimeRange, resolution: Resolution) -> TimeRange:
    """The range with the hours, or days, in which it begins and ends."""
    length_s = DAY_S if resolution is Resolution.DAY else HOUR_S
    end_s = -_floor(-during.end_s, length_s)
    return TimeRange(_floor(during.start_s, length_s), end_s)


def _period(key: PeriodKey, resolution: Resolution, during: TimeRange) -> PeriodKey:
    if resolution is Resolution.TOTAL:
        start_s = int(during.start_s)
        return key._replace(length_s=int(during.end_s) - start_s, start_s=start_s)
    if resolution is Resolution.DAY:
        return key._replace(length_s=DAY_S, start_s=_floor(key.start_s, DAY_S))
    return key


def _amounts(outcome: Outcome) -> Amounts:
    return Amounts(
        requests=1,
        errors=int(outcome.status is Status.FAILED),
        refused=int(outcome.status is Status.REFUSED),
        cancelled=int(outcome.status is Status.CANCELLED),
        prompt_tokens=outcome.prompt_tokens,
        cached_tokens=outcome.cached_tokens,
        completion_tokens=outcome.completion_tokens,
        device_us=round(outcome.device_ms * 1000),
        cost=outcome.cost,
        ttft=_histogram(outcome.ttft_ms),
        tpot=_histogram(outcome.tpot_ms),
    )


def _histogram(duration_ms: float | None) -> Counter[int]:
    durations: Sequence[float] = () if duration_ms is None else (duration_ms,)
    return histograms.of_durations_ms(durations)


def _floor(time_s: float, length_s: int) -> int:
    return int(time_s // length_s) * length_s
