"""A rollout, its guards and its changes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from mlxmesh_model.catalogue.routing import Arm, Split, Subject

NEW, PRESENT = "new", "present"
"""The arms of a rollout's split."""


class State(StrEnum):
    """The state of a rollout; the values are stored."""

    PREPARING = "preparing"
    PROGRESSING = "progressing"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"


ENDED = frozenset({State.PROMOTED, State.ROLLED_BACK, State.ABORTED})


class Metric(StrEnum):
    """What a guard measures; the values are stored, and are the names in texts of guards."""

    ERROR_RATE = "error_rate"
    TTFT_P50 = "ttft_p50"
    TTFT_P95 = "ttft_p95"
    TTFT_P99 = "ttft_p99"
    TPOT_P50 = "tpot_p50"
    TPOT_P95 = "tpot_p95"
    TOKENS_PER_REQUEST = "tokens_per_request"
    INVALID_RATE = "invalid_rate"


RATES = frozenset({Metric.ERROR_RATE, Metric.INVALID_RATE})


@dataclass(frozen=True, slots=True)
class Guard:
    """A bound that the new version must keep; a relative one is a factor of the present version."""

    metric: Metric
    bound: float
    above: bool = False
    relative: bool = False

    def __str__(self) -> str:
        sign = ">" if self.above else "<"
        if self.relative:
            return f"{self.metric}{sign}{self.bound:g}x"
        return f"{self.metric}{sign}{self.text_of(self.bound)}"

    def text_of(self, value: float) -> str:
        """A value of the metric, with its unit."""
        if self.metric in RATES:
            return f"{value * 100:.4g}%"
        unit = "" if self.metric is Metric.TOKENS_PER_REQUEST else "ms"
        return f"{value:.4g}{unit}" if value < 10_000 else f"{value:.0f}{unit}"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guard measured; None without requests."""

    guard: Guard
    value: float | None
    baseline: float | None
    kept: bool
    certain: bool = False
    """Whether the bound is broken beyond chance, so that the step need not be waited for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The rollout that somebody asks for."""

    model: str
    alias: str
    to_version: int
    steps: tuple[int, ...]
    hold_s: int
    guards: tuple[Guard, ...]
    min_requests: int


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout. Every change adds one to `revision`."""

    rollout_id: str
    wish: Wish
    from_version: int
    created_at: datetime
    step_at: datetime
    """When the present step began."""
    replicas: int
    """How many replicas of the new version the rollout asked for."""
    previous_replicas: int
    """How many replicas of the new version were asked for before."""
    state: State = State.PREPARING
    step: int = 0
    window: int = 0
    """The revision with which the present step began; requests are counted by it."""
    revision: int = 0
    ended_at: datetime | None = None
    released: bool = False
    """Whether what the end of the rollout leaves unused has been unloaded."""

    @property
    def weight(self) -> int:
        """The weight of the new version at present, in percent."""
        if self.state is State.PROMOTED:
            return 100
        return self.wish.steps[self.step] if self.state in _SPLITTING else 0

    @property
    def split(self) -> Split | None:
        """The split of the alias; None once the rollout has ended.

        The new version comes first: a subject that it has keeps it while its weight grows.
        """
        if self.state in ENDED:
            return None
        arms = (
            Arm(NEW, self.wish.to_version, self.weight),
            Arm(PRESENT, self.from_version, 100 - self.weight),
        )
        return Split(arms, self.rollout_id, Subject.REQUEST, rollout_id=self.rollout_id)

    @property
    def alias_version(self) -> int:
        """The version for callers that the split does not assign."""
        return self.wish.to_version if self.state is State.PROMOTED else self.from_version

    @property
    def hold_ends_at(self) -> datetime:
        """When the present step is judged, if it has enough requests by then."""
        return self.step_at + timedelta(seconds=self.wish.hold_s)

    @property
    def label(self) -> str:
        """The rollout, for messages."""
        return f"rollout {self.rollout_id}"


_SPLITTING = frozenset({State.PROGRESSING, State.PAUSED})


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a rollout: what is so from then on, and why."""

    time: datetime
    state: State
    step: int
    weight: int
    reason: str
    readings: Sequence[Reading] = ()
    principal: str = ""
