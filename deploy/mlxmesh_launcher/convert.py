"""Between what the launcher knows of its processes and the contracts' messages."""

from __future__ import annotations

import math

from mlxmesh.control.v1.launcher_pb2 import SupervisedService
from mlxmesh.telemetry.v1.events_pb2 import ServiceCrashed
from mlxmesh_launcher.child import Child, Crash


def service_message(child: Child) -> SupervisedService:
    """A service as it is now."""
    pid, crash = child.pid or 0, child.crash
    message = SupervisedService(name=child.name, pid=pid, restarts=child.restarts)
    if crash is not None:
        message.last_exit = crash.last_exit
        message.failures = crash.failures
        message.restart_in_ms = 0 if pid else math.ceil(crash.restart_in_s * 1000)
    return message


def crash_event(crash: Crash) -> ServiceCrashed:
    """What everybody is told of it."""
    return ServiceCrashed(
        name=crash.name,
        last_exit=crash.last_exit,
        failures=crash.failures,
        restart_in_ms=math.ceil(crash.restart_in_s * 1000),
    )
