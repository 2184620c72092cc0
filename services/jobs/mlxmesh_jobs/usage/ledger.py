"""Sums what attempts have used. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mlxmesh_jobs.domain.jobs import Owner
from mlxmesh_jobs.domain.ports import UsageEntry

HOUR_MS = 3_600_000


class Subject(NamedTuple):
    """Whom a quota is of."""

    kind: str
    """key, user or team."""
    name: str


class UsageKey(NamedTuple):
    """What usage is summed by."""

    principal: str
    user: str
    key_id: str
    team: str
    model: str
    model_version: int
    hour_ms: int
    """The beginning of the hour."""


@dataclass
class Amounts:
    """A sum."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    device_ms: int = 0
    last_used_ms: int = 0


@dataclass
class Spent:
    """What counts against the quotas of one subject."""

    tokens: int = 0
    principals: set[str] = field(default_factory=set[str])


def sums(entries: Iterable[UsageEntry]) -> dict[UsageKey, Amounts]:
    """By principal, model version and hour."""
    found: dict[UsageKey, Amounts] = {}
    for entry in entries:
        owner = entry.owner
        key = UsageKey(
            owner.principal,
            owner.user,
            owner.key_id,
            owner.team,
            entry.model,
            entry.model_version,
            entry.used_ms // HOUR_MS * HOUR_MS,
        )
        amounts = found.setdefault(key, Amounts())
        amounts.requests += 1
        amounts.errors += entry.failed
        amounts.prompt_tokens += entry.prompt_tokens
        amounts.cached_tokens += entry.cached_tokens
        amounts.completion_tokens += entry.completion_tokens
        amounts.device_ms += entry.device_ms
        amounts.last_used_ms = max(amounts.last_used_ms, entry.used_ms)
    return found


def spent(entries: Sequence[UsageEntry]) -> dict[Subject, Spent]:
    """The tokens of each subject."""
    tokens: Counter[Subject] = Counter()
    principals: dict[Subject, set[str]] = {}
    for entry in entries:
        for subject in subjects_of(entry.owner):
            tokens[subject] += entry.prompt_tokens + entry.completion_tokens
            principals.setdefault(subject, set()).add(entry.owner.principal)
    return {subject: Spent(tokens[subject], principals[subject]) for subject in principals}


def subjects_of(owner: Owner) -> Iterable[Subject]:
    """Whose quotas the jobs of an owner count against."""
    named = (("key", owner.key_id), ("user", owner.user), ("team", owner.team))
    return [Subject(kind, name) for kind, name in named if name]
