"""Usage: amounts by principal, model version and hour."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from mlxmesh_access.clock import HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """Amounts of use."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    device_us: int = 0
    """Time of the device, in microseconds: sums of integers do not depend on their order."""

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(**{name: getattr(self, name) + getattr(other, name) for name in AMOUNTS})


AMOUNTS = tuple(Amounts.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageKey:
    """What usage is counted by."""

    principal: str = ""
    key_id: str = ""
    user: str = ""
    team: str = ""
    model: str = ""
    model_version: int = 0
    hour_ms: int = 0
    """The beginning of the hour."""


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What calls of one principal with one model version used in one hour."""

    key: UsageKey
    amounts: Amounts
    last_used_ms: int = 0
    """When the key was used last; 0 without a key."""


class Group(StrEnum):
    """What usage can be summed by."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    MODEL = "model"
    HOUR = "hour"
    DAY = "day"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which usage to sum, and by what; what is empty is not restricted."""

    from_ms: int
    """The beginning of an hour."""
    to_ms: int
    """The end of an hour."""
    groups: tuple[Group, ...] = ()
    principal: str = ""
    user: str = ""
    key_id: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class UsageSum:
    """The sum of one group."""

    key: UsageKey
    """What it was not summed by is empty."""
    amounts: Amounts
    position: tuple[str | int, ...]
    """Where it is in the order of the result."""


def hour_of(time_ms: int) -> int:
    """The beginning of the hour of a time."""
    return time_ms - time_ms % HOUR_MS


def summed(records: Iterable[UsageRecord]) -> dict[UsageKey, Amounts]:
    """The sum of the records of each key."""
    sums: dict[UsageKey, Amounts] = {}
    for record in records:
        sums[record.key] = sums.get(record.key, Amounts()) + record.amounts
    return sums


def last_used_minutes(records: Iterable[UsageRecord]) -> dict[str, int]:
    """When each key was used last, to the minute."""
    used: dict[str, int] = {}
    for record in records:
        if record.key.key_id and record.last_used_ms:
            minute_ms = record.last_used_ms - record.last_used_ms % 60_000
            used[record.key.key_id] = max(minute_ms, used.get(record.key.key_id, 0))
    return used
