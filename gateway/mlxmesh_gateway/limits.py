"""What the gateway lets in: for how long, how much for one caller, and what is passed on."""

from collections.abc import Iterable
from dataclasses import dataclass

from mlxmesh_shared.caller import CALLER_METADATA

FORWARDED_METADATA = frozenset({"traceparent", "tracestate", "x-request-id"})
"""Metadata that services get to see; everything else ends at the gateway."""

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Deadlines:
    """The deadlines that calls get, in seconds."""

    default_s: float
    max_s: float

    def timeout_s(self, remaining_s: float | None, *, lasting: bool = False) -> float:
        """What a call may take: what its client allows, never above the maximum."""
        if remaining_s is None:
            return self.max_s if lasting else min(self.default_s, self.max_s)
        return min(remaining_s, self.max_s)


def forwarded(metadata: Iterable[tuple[str, str | bytes]] | None, *, caller: str) -> Metadata:
    """The part of a call's metadata that is passed on, and who calls."""
    kept = ((key, value) for key, value in metadata or () if key in FORWARDED_METADATA)
    return (*kept, (CALLER_METADATA, caller))


def places_per_caller(max_concurrent_rpcs: int, asked: int | None) -> int:
    """As asked, else so many that an eighth of the places is left for others."""
    return asked or max_concurrent_rpcs - max_concurrent_rpcs // 8
