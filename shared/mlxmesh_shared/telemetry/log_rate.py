"""A bound on log records of one kind: what a client can cause a million times must fill no disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

WINDOW_S = 10.0
MAX_RECORDS = 50
"""Of one place in the code, in one window."""
_MAX_PLACES = 1000


class LogRate(logging.Filter):
    """Lets the first records of each place pass; the next window's first says how many did not.

    Access records are one for each call, which the limits on calls bound, and pass always.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._window_ends_s = 0.0
        self._counts: dict[tuple[str, int], int] = {}
        self._left_out: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; one that follows others that were not says so."""
        if record.name == "mlxmesh.access":
            return True
        if self._clock() >= self._window_ends_s:
            self._begin_window()
        place = (record.pathname, record.lineno)
        count = self._counts[place] = self._counts.get(place, 0) + 1
        if count > MAX_RECORDS:
            return False
        if left_out := self._left_out.pop(place, 0):
            fields = getattr(record, "fields", {})
            record.fields = {**fields, "like_this_left_out": left_out}
        return True

    def _begin_window(self) -> None:
        for place, count in self._counts.items():
            if count > MAX_RECORDS and len(self._left_out) < _MAX_PLACES:
                self._left_out[place] = self._left_out.get(place, 0) + count - MAX_RECORDS
        self._counts.clear()
        self._window_ends_s = self._clock() + WINDOW_S
