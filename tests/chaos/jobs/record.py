"""What the simulated back end has recorded: the truth about effects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

BEGINS = ("began", "joined", "effect", "repeated")
"""Events that show that an attempt has reached the back end."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line."""

    event: str
    """began, joined, effect, repeated, fenced, failed or cancelled."""
    job_id: str
    attempt: int
    at_s: float
    """On the monotonic clock, which the processes of one host share."""
    effect: int = 0
    """The number of an effect."""


class Record:
    """Reads the file as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.by_job: defaultdict[str, list[Event]] = defaultdict(list)
        """In their order."""
        self.effects = 0

    def read(self) -> Sequence[Event]:
        """What is new since the last call."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            lines = file.read().splitlines(keepends=True)
        events: list[Event] = []
        for line in lines:
            if not line.endswith(b"\n"):
                break  # its end may be on its way
            self._offset += len(line)
            # A server that was killed may leave a torn line before the next one.
            if (event := _event(line)) is not None:
                events.append(event)
                self.by_job[event.job_id].append(event)
                self.effects += event.event == "effect"
        return events


def _event(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    effect = found["result"]["effect"] if found["event"] == "effect" else 0
    return Event(found["event"], found["job_id"], found["attempt"], found["at_s"], effect)
