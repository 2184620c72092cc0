"""Quotas: whom they apply to, and what they limit."""

from dataclasses import astuple, dataclass
from enum import StrEnum


class SubjectKind(StrEnum):
    """What a quota can apply to."""

    KEY = "key"
    TEAM = "team"
    USER = "user"


@dataclass(frozen=True, slots=True, order=True)
class Subject:
    """Whom a quota applies to."""

    kind: SubjectKind
    name: str
    """The key's id, or the name of the user or team."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


class LimitKind(StrEnum):
    """What a quota can limit."""

    REQUESTS_PER_MINUTE = "requests_per_minute"
    TOKENS_PER_MINUTE = "tokens_per_minute"
    TOKENS_PER_DAY = "tokens_per_day"
    CONCURRENT_GENERATIONS = "concurrent_generations"
    TOKENS_PER_MONTH = "tokens_per_month"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one quota; 0 for one that is not set."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    tokens_per_day: int = 0
    concurrent_generations: int = 0
    tokens_per_month: int = 0

    def of(self, kind: LimitKind) -> int:
        """One limit; 0 if it is not set."""
        return getattr(self, kind.value)

    def __bool__(self) -> bool:
        return any(astuple(self))

    def __str__(self) -> str:
        limits = {kind: self.of(kind) for kind in LimitKind}
        return ", ".join(f"{kind} {limit}" for kind, limit in limits.items() if limit)


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one subject, and what is used of them in the present windows."""

    subject: Subject
    limits: Limits
    used: Limits = Limits()
    """What is not limited, and concurrent generations, are 0."""


@dataclass(frozen=True, slots=True)
class LimitId:
    """One limit of one subject."""

    subject: Subject
    kind: LimitKind
