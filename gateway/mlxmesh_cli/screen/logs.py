"""Reads log files: the last lines, new lines across rotations, and records as text.

A log that is too large is rotated: its content is copied, the file is emptied, and then the copy is
renamed to NAME.log.1.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

# After so many polls, an emptied log is taken to have no copy.
MAX_POLLS_FOR_COPY = 5


def last_lines(path: Path, lines: int) -> list[str]:
    """The last lines of a log, including its rotated part where needed."""
    found = _end_of(path, lines)
    if len(found) < lines:
        found = _end_of(_rotated(path), lines - len(found)) + found
    return found


def _end_of(path: Path, lines: int) -> list[str]:
    try:
        with path.open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=lines)]
    except FileNotFoundError:
        return []


class FollowedLog:
    """Follows a log from its current end, across rotations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = _size_bytes(path)
        self._copy = _stamp(_rotated(path))
        self._unfinished = b""
        self._polls = 0

    def new_lines(self) -> Iterator[str]:
        """Yields the lines that were completed since the last call."""
        copy = _stamp(_rotated(self.path))
        if copy is not None and copy != self._copy:
            yield from self._read(_rotated(self.path))
            self._restart()
            self._copy = copy
        elif _size_bytes(self.path) < self._position:
            self._polls += 1
            if self._polls < MAX_POLLS_FOR_COPY:
                return
            self._restart()
        yield from self._read(self.path)

    def _restart(self) -> None:
        self._position = self._polls = 0

    def _read(self, path: Path) -> Iterator[str]:
        try:
            with path.open("rb") as file:
                file.seek(self._position)
                text = file.read()
        except FileNotFoundError:
            return
        self._position += len(text)
        *lines, self._unfinished = (self._unfinished + text).split(b"\n")
        yield from (line.decode(errors="replace").rstrip() for line in lines)


def _rotated(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _stamp(path: Path) -> tuple[int, int] | None:
    """Identifies a copy; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def readable(line: str) -> str:
    """A JSON log record as text; other lines are returned unchanged."""
    record = _record(line)
    if record is None:
        return line
    try:
        time = datetime.fromisoformat(str(record["time"])).astimezone()
    except (KeyError, ValueError):
        return line
    level, message = (str(record.get(name, "")) for name in ("level", "message"))
    text = f"{time:%H:%M:%S}.{time.microsecond // 1000:03} {level.upper():7} {message}"
    text += "".join(f" {name}={value}" for name, value in _fields(record).items())
    return f"{text}\n{record['error']}" if "error" in record else text


def _record(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found: object = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def _fields(record: dict[str, Any]) -> dict[str, Any]:
    found = record.get("fields")
    fields = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    model, trace = ({n: record[n]} if n in record else {} for n in ("model", "trace_id"))
    return {**model, **fields, **trace}
