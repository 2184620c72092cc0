"""Sums what calls have used, by principal, model version and hour. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mlxmesh_gateway.door.principal import Principal
from mlxmesh_gateway.forwarding.used import Used

HOUR_S = 3600
MAX_RECORDS = 4096
"""Of one batch: as many as the contract allows."""


class UsageKey(NamedTuple):
    """What usage is summed by."""

    principal: str
    user: str
    key_id: str
    team: str
    model: str
    model_version: int
    hour_s: int
    """The beginning of the hour, Unix time."""


@dataclass(slots=True)
class Amounts:
    """A sum."""

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    device_ms: float = 0.0
    last_used_s: float = 0.0

    def add(self, other: Amounts) -> None:
        self.requests += other.requests
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.device_ms += other.device_ms
        self.last_used_s = max(self.last_used_s, other.last_used_s)


Records = dict[UsageKey, Amounts]


class Ledger:
    """What was used and not yet put into a batch."""

    def __init__(self) -> None:
        self._records: Records = {}

    def __bool__(self) -> bool:
        return bool(self._records)

    def add(
        self, principal: Principal, used: Used, now_s: float, *, is_request: bool = True
    ) -> None:
        """Counts one call that has ended.

        is_request: False for one that read what another call had begun.
        """
        amounts = Amounts(
            requests=int(is_request),
            errors=int(used.failed),
            prompt_tokens=used.prompt_tokens,
            cached_tokens=used.cached_tokens,
            completion_tokens=used.completion_tokens,
            device_ms=used.device_ms,
            last_used_s=now_s,
        )
        key = UsageKey(
            principal.identity,
            principal.user,
            principal.key_id,
            principal.team,
            used.model,
            used.model_version,
            int(now_s) // HOUR_S * HOUR_S,
        )
        self._records.setdefault(key, Amounts()).add(amounts)

    def take(self) -> Records:
        """Everything since the last time."""
        records, self._records = self._records, {}
        return records


class Batch:
    """Records that are reported together, once, however often they are sent."""

    def __init__(self, batch_id: str, records: Records | None = None) -> None:
        self.batch_id = batch_id
        self.records: Records = records or {}

    def add(self, records: Records) -> Records:
        """Adds what it has room for; returns the rest."""
        rest: Records = {}
        for key, amounts in records.items():
            if key in self.records:
                self.records[key].add(amounts)
            elif len(self.records) < MAX_RECORDS:
                self.records[key] = amounts
            else:
                rest[key] = amounts
        return rest
