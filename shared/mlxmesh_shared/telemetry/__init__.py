"""What a process tells about itself: its logs, and who takes its traces and metrics."""

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
