"""The settings of a runtime."""

from typing import Annotated

from pydantic import Field

from mlxmesh_shared.settings.fields import Count, Seconds
from mlxmesh_shared.settings.listen import Listen
from mlxmesh_shared.settings.sections.mesh import MeshSettings


class RuntimeSettings(MeshSettings):
    """The supervisor of one host's engines."""

    listen: Listen = "127.0.0.1:0"
    """Where the model service connects, host:port; port 0 chooses a free one."""
    heartbeat_interval_s: Seconds = 1.0
    """The interval of each engine's health checks."""
    heartbeat_timeout_s: Seconds = 2.0
    """How long an engine may take to answer a health check."""
    liveness_timeout_s: Seconds = 10.0
    """An engine that has not answered for this long is restarted."""
    step_stall_timeout_s: Seconds = 30
    """An engine whose step loop has not advanced for this long is restarted."""
    start_timeout_s: Seconds = 600
    """How long an engine may take to load its model."""
    spare_engine: bool = True
    """Keeps a process with MLX imported ready, so that an engine starts sooner; about 70 MB."""
    restart_backoff_min_s: Seconds = 0.5
    """The first delay before a crashed engine is restarted."""
    restart_backoff_max_s: Seconds = 30
    """The longest delay before a crashed engine is restarted."""
    breaker_failures: Count = 5
    """Consecutive failures after which an engine is not restarted any more."""
    failure_reset_s: Seconds = 120
    """An engine that was ready for this long has its count of failures reset."""
    stop_grace_s: Seconds = 30
    """How long a stopping engine may finish its sequences before it is killed."""
    hand_over_s: Seconds = 300
    """How long a stopping runtime waits for other runtimes to replace its engines."""
    memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """The part of the available memory that a model may use."""
