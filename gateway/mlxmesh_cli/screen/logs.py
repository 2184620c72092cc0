"""The lines of a log file, also while it grows and begins anew.

A log that is too large is copied to NAME.log.1 and emptied, in this order: the copy gets its name
once the file is empty.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

# An emptied log whose copy has not come by then has none.
MAX_LOOKS_FOR_COPY = 5


def last_lines(path: Path, lines: int) -> list[str]:
    """The end of a log; where it has just begun anew, with the end of its older part."""
    found = _end_of(path, lines)
    if len(found) < lines:
        found = _end_of(_older_part(path), lines - len(found)) + found
    return found


def _end_of(path: Path, lines: int) -> list[str]:
    try:
        with path.open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=lines)]
    except FileNotFoundError:
        return []


class FollowedLog:
    """A log from its present end on, over rotations."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._position = _size_bytes(path)
        self._copy = _stamp(_older_part(path))
        self._unfinished = b""
        self._looks = 0

    def new_lines(self) -> Iterator[str]:
        """The lines that were finished since the last call."""
        copy = _stamp(_older_part(self.path))
        if copy is not None and copy != self._copy:
            yield from self._read(_older_part(self.path))
            self._begin_anew()
            self._copy = copy
        elif _size_bytes(self.path) < self._position:
            self._looks += 1
            if self._looks < MAX_LOOKS_FOR_COPY:
                return
            self._begin_anew()
        yield from self._read(self.path)

    def _begin_anew(self) -> None:
        self._position = self._looks = 0

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


def _older_part(path: Path) -> Path:
    return path.with_name(f"{path.name}.1")


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _stamp(path: Path) -> tuple[int, int] | None:
    """Another one for each copy; None where there is none."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def readable(line: str) -> str:
    """The record in this line of a log as text; a line that holds none is left as it is."""
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
