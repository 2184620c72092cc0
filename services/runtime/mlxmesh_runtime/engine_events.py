"""The event that a change of an engine's record is. Pure."""

from __future__ import annotations

from typing import TypedDict

from google.protobuf.message import Message

from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_runtime.convert import failure_to
from mlxmesh_runtime.engine_record import EngineRecord
from mlxmesh_runtime.lifecycle import EngineState


class _What(TypedDict):
    engine_id: str
    model: str
    model_version: int


def engine_event(before: EngineRecord | None, after: EngineRecord) -> Message | None:
    """What to tell of a change; None when it is nothing new to others."""
    moved = before is None or before.state is not after.state
    had_process = before is not None and before.pid != 0
    spec, failure = after.spec, after.last_failure
    what: _What = {
        "engine_id": spec.engine_id,
        "model": spec.model,
        "model_version": spec.model_version,
    }
    why = failure_to(failure) if failure is not None else None
    match after.state:
        case EngineState.STARTING if after.pid and not had_process:
            return events.EngineStarted(**what, pid=after.pid, restarts=after.restarts)
        case EngineState.READY if moved:
            return events.EngineReady(**what, address=after.address, restarts=after.restarts)
        case EngineState.BACKOFF if moved:
            return events.EngineCrashed(**what, failure=why, restarts=after.restarts)
        case EngineState.FAILED if moved:
            return events.EngineFailed(**what, failure=why)
        case EngineState.DRAINING if had_process and not after.pid:
            return events.EngineDrained(**what)
        case EngineState.STOPPED:
            return events.EngineStopped(**what)
        case _:
            return None
