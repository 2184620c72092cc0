"""Which instance numbered which messages of a stream. Pure.

Messages get their numbers as they are read, and may be merged before, so the same number stands
for other tokens at another instance. Each instance has a random id for its numbers; a stream that
moved has messages with several.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

_MAX = 2**32 - 1


class Numbering:
    """The numbers of one stream as it goes on here."""

    def __init__(self, earlier: Sequence[tuple[int, int]] = (), *, own: int | None = None) -> None:
        """earlier: ids of the instances that the stream came from, in order, each with the last
        message that it numbered; those of an instance that the stream came back to are there again.
        own: the id of the numbers given here; chosen by default.
        """
        self._earlier = earlier
        self._accepted: set[tuple[int, int]] = set()
        self.own = own or 1 + secrets.randbelow(_MAX)
        """The id of the numbers given here."""

    def of(self, sequence: int) -> int:
        """The id of who numbered a message."""
        return next((id_ for id_, last in self._earlier if sequence <= last), self.own)

    def accept(self, received: Sequence[tuple[int, int]]) -> None:
        """The stream came back here, after the same text: by these numbers, as `earlier`."""
        self._accepted.update(received[-1:])

    def has(self, numbering: int, sequence: int) -> bool:
        """Whether a reader that has received this message can go on here."""
        is_own = numbering in (self.own, self.of(sequence))
        return is_own or (numbering, sequence) in self._accepted
