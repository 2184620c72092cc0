"""Logging of a process: JSON or text on stderr, with a rate limit for each place in the code."""

from __future__ import annotations

import json
import logging
import secrets
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

WINDOW_S = 10.0
MAX_RECORDS = 50
"""For each place in the code, in one window."""
_MAX_PLACES = 1000


class LogRate(logging.Filter):
    """Limits the records of each place; the next window's first record counts the suppressed ones.

    Clients can cause records without end, which must not fill a disk. Access records always pass:
    there is one for each call, and calls are limited.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._window_ends_s = 0.0
        self._counts: dict[tuple[str, int], int] = {}
        self._suppressed: dict[tuple[str, int], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; adds the number of suppressed records before it."""
        if record.name == "mlxmesh.access":
            return True
        if self._clock() >= self._window_ends_s:
            self._begin_window()
        place = (record.pathname, record.lineno)
        count = self._counts[place] = self._counts.get(place, 0) + 1
        if count > MAX_RECORDS:
            return False
        if suppressed := self._suppressed.pop(place, 0):
            fields = getattr(record, "fields", {})
            record.fields = {**fields, "records_suppressed": suppressed}
        return True

    def _begin_window(self) -> None:
        for place, count in self._counts.items():
            if count > MAX_RECORDS and len(self._suppressed) < _MAX_PLACES:
                self._suppressed[place] = self._suppressed.get(place, 0) + count - MAX_RECORDS
        self._counts.clear()
        self._window_ends_s = self._clock() + WINDOW_S


_SPAN_FIELDS = ("trace_id", "span_id", "model")


def new_instance_id(service: str) -> str:
    """A unique id of an instance: the service and 8 random hex digits."""
    return f"{service}-{secrets.token_hex(4)}"


# They log the internals of each request, or each statement with its values.
_NOISY = "aiohttp aiosqlite alembic filelock grpc httpcore httpx2".split()

# Their warnings quote what callers send, before these are known: an illegal tracestate.
_QUOTING = ("opentelemetry.trace", "opentelemetry.trace.propagation")


def setup_logging(
    *,
    service: str,
    instance_id: str,
    level: str = "info",
    json: bool,
    stream: TextIO | None = None,
) -> None:
    """Writes the records of this process to stderr (or stream); replaces an earlier setup."""
    handler = logging.StreamHandler(stream or sys.stderr)
    identity = {"service": service, "instance": instance_id}
    handler.setFormatter(JsonFormatter(identity) if json else TextFormatter(service))
    handler.addFilter(LogRate())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_log_level(level)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for quoting in _QUOTING:
        logging.getLogger(quoting).setLevel(logging.ERROR)


def set_log_level(level: str) -> None:
    """Sets the lowest severity that is logged."""
    logging.getLogger().setLevel(level.upper())


def wants_json(log_format: str, stream: TextIO | None = None) -> bool:
    """Whether the setting `log_format` means JSON here: auto is text on a terminal only."""
    terminal = (stream or sys.stderr).isatty()
    return log_format == "json" or (log_format == "auto" and not terminal)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, component, operation, message, trace, fields, error."""

    def __init__(self, identity: dict[str, str]) -> None:
        super().__init__()
        self._identity = identity

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._identity,
            "component": record.name,
            "operation": getattr(record, "operation", record.funcName),
            "message": record.getMessage(),
        }
        # Present if OpenTelemetry is in use: the span in which the record was made.
        line |= {name: vars(record)[name] for name in _SPAN_FIELDS if name in vars(record)}
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One readable line: time, level, service, message, fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields: dict[str, Any] = getattr(record, "fields", {})
        shown = "".join(f" {name}={value}" for name, value in fields.items())
        line = f"{time} {record.levelname:7} {self._service} {record.getMessage()}{shown}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
