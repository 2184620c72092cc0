"""A bound on log records of one kind: what a client can cause a million times must fill no disk."""

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


_OF_SPANS = ("trace_id", "span_id", "model")


def new_instance_id(service: str) -> str:
    """An id that no other instance has: the service and 8 random hex digits."""
    return f"{service}-{secrets.token_hex(4)}"


def setup_logging(
    *,
    service: str,
    instance_id: str,
    level: str = "info",
    json: bool,
    stream: TextIO | None = None,
) -> None:
    """Sends every record of this process to stderr (or stream), replacing earlier set-ups."""
    handler = logging.StreamHandler(stream or sys.stderr)
    identity = {"service": service, "instance": instance_id}
    handler.setFormatter(JsonFormatter(identity) if json else TextFormatter(service))
    handler.addFilter(LogRate())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_log_level(level)
    # Their INFO records tell of each request's internals, or of each file change.
    for noisy in ("grpc", "httpx2", "httpcore", "watchfiles", "alembic", "filelock", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def set_log_level(level: str) -> None:
    """Sets the least important record that is logged, from now on."""
    logging.getLogger().setLevel(level.upper())


def wants_json(log_format: str, stream: TextIO | None = None) -> bool:
    """Whether the setting `log_format` comes to JSON here: auto is text on a terminal only."""
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
        # Where OpenTelemetry is used, of the span that the record was made in.
        line |= {name: vars(record)[name] for name in _OF_SPANS if name in vars(record)}
        fields = getattr(record, "fields", None)
        if fields:
            line["fields"] = fields
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line for a person: time, level, service, message, fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        fields: dict[str, Any] = getattr(record, "fields", {})
        shown = "".join(f" {name}={value}" for name, value in fields.items())
        line = f"{time} {record.levelname:7} {self._service} {record.getMessage()}{shown}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
