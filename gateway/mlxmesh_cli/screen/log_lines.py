"""Log records as a person reads them on a terminal: one short line in place of a JSON object."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, cast


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
