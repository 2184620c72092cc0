"""Logs: one record a line on stderr, JSON for machines or text for a terminal.

A record may carry `extra={"operation": ..., "fields": {...}}`. Prompts, outputs and keys belong in
no record.
"""

import json
import logging
import secrets
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from mlxmesh_shared.telemetry.log_rate import LogRate

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
