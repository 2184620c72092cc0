"""The one shape of all scenarios: what breaks, how often, and how the findings come about."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.results import Findings
from tests.chaos.history import Call, read_history, write_history


@dataclass(frozen=True)
class Run:
    """One run of one scenario."""

    count: int
    """Rounds asked for."""
    folder: Path
    """Where histories go."""
    report: Callable[[str], None]
    """Takes a line of progress."""
    until_s: float = float("inf")
    """No round begins after this time of the monotonic clock."""

    def rounds(self) -> Iterator[int]:
        """The numbers of the rounds, as many as there is time for; at least one."""
        for number in range(self.count):
            if number and time.monotonic() > self.until_s:
                self.report(f"out of time after {number} of {self.count} rounds")
                return
            yield number

    def keep(self, name: str, calls: Iterable[Call]) -> None:
        """Adds calls to the history of this name."""
        write_history(self.folder / f"{name}.jsonl", calls)

    def kept(self, name: str) -> Sequence[Call]:
        """All calls of a history, read back from its file."""
        return read_history(self.folder / f"{name}.jsonl")


@dataclass(frozen=True)
class Scenario:
    """A fault, and how to find out what it does to calls."""

    name: str
    fault: str
    """What breaks, for the reader of the table."""
    count: int
    """Rounds of a full run."""
    limit_s: float
    """After so long no further round begins."""
    play: Callable[[Run], Awaitable[Findings]]
