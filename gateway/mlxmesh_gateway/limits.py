"""What the gateway lets in: for how long a call may run, and what of it is passed on."""

from collections.abc import Iterable
from dataclasses import dataclass

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


def forwarded(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """The part of a call's metadata that is passed on."""
    return tuple((key, value) for key, value in metadata or () if key in FORWARDED_METADATA)
