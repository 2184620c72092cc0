"""Telemetry: logs, and what makes a process's spans and metrics and sends them to a collector.

Here are the logs alone: the rest needs OpenTelemetry, which commands should not have to import.
"""

from mlxmesh_shared.telemetry.logs import (
    JsonFormatter,
    TextFormatter,
    new_instance_id,
    set_log_level,
    setup_logging,
    wants_json,
)

__all__ = [
    "JsonFormatter",
    "TextFormatter",
    "new_instance_id",
    "set_log_level",
    "setup_logging",
    "wants_json",
]
