"""Telemetry: logs, spans and metrics of a process, and their export.

This module exports logging only. The rest needs OpenTelemetry, which commands do not import.
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
