"""What clients saw of their calls, as JSON lines that a checker reads later."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

OK = "OK"


@dataclass(frozen=True)
class Message:
    """One message of a stream; times are those of this machine's monotonic clock."""

    sequence: int
    at_s: float
    token_ids: tuple[int, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Ending:
    """What the last message of a stream says about the whole of it."""

    finish_reason: str
    completion_tokens: int
    resumptions: int = 0


@dataclass(frozen=True)
class Call:
    """One call from its start to its end."""

    call_id: str
    request: str
    """What was asked, as JSON, without what differs from call to call of the same request."""
    started_s: float
    messages: Sequence[Message] = ()
    status: str = ""
    """`OK`, or the code and reason of an error; empty for a call that never ended."""
    ended_s: float | None = None
    ending: Ending | None = None
    attached: int = 0
    """How often the client went on through another gateway."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every token that came, in the order in which they came."""
        return tuple(token for message in self.messages for token in message.token_ids)

    @property
    def text(self) -> str:
        """All texts joined."""
        return "".join(message.text for message in self.messages)

    def longest_gap_s(self, *, after_s: float = 0.0) -> float:
        """The longest time between two messages, the second of which came after `after_s`."""
        return max(self.gaps_s(after_s=after_s), default=0.0)

    def gaps_s(self, *, after_s: float = 0.0) -> list[float]:
        """The times between messages, as far as the second came after `after_s`."""
        pairs = itertools.pairwise(message.at_s for message in self.messages)
        return [late - early for early, late in pairs if late > after_s]


_CALL = TypeAdapter(Call)


def write_history(path: Path, calls: Iterable[Call]) -> None:
    """Adds the calls to a file, one a line."""
    with path.open("ab") as file:
        for call in calls:
            file.write(_CALL.dump_json(call) + b"\n")


def read_history(path: Path) -> list[Call]:
    """What `write_history` wrote; raises ValueError for anything else."""
    return [_CALL.validate_json(line) for line in path.read_bytes().splitlines()]


def read_more_history(path: Path, begin: int) -> tuple[list[Call], int]:
    """The whole lines of a growing file from a position in bytes on, and the next position."""
    with path.open("rb") as file:
        file.seek(begin)
        lines, _, _ = file.read().rpartition(b"\n")
    calls = [_CALL.validate_json(line) for line in lines.splitlines()]
    return calls, begin + len(lines) + bool(lines)
