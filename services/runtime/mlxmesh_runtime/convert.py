"""Contract messages to what the runtime works with, and back."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh_runtime.change_feed import Change
from mlxmesh_runtime.device import Device, Memory
from mlxmesh_runtime.engine_record import EngineFailure, EngineOptions, EngineRecord, EngineSpec
from mlxmesh_runtime.lifecycle import EngineState

_STATES = {state: pb.EngineState.Value(f"ENGINE_STATE_{state.name}") for state in EngineState}


def spec_from(request: pb.StartEngineRequest) -> EngineSpec:
    """What to run; an option that is not set stays the engine's own default."""
    options = request.options
    set_options = {field.name: value for field, value in options.ListFields()}
    return EngineSpec(
        engine_id=request.engine_id,
        model=request.model,
        model_version=request.model_version,
        model_dir=Path(request.model_dir),
        options=EngineOptions(**set_options),
    )


def engine_to(
    record: EngineRecord, *, memory_bytes: int, log_tail: tuple[str, ...] = ()
) -> pb.Engine:
    """An engine as the contract shows it."""
    engine = pb.Engine(
        engine_id=record.spec.engine_id,
        model=record.spec.model,
        model_version=record.spec.model_version,
        state=_STATES[record.state],
        address=record.address,
        pid=record.pid,
        restarts=record.restarts,
        memory_bytes=memory_bytes,
        log_tail=log_tail,
    )
    if record.last_failure is not None:
        engine.last_failure.CopyFrom(failure_to(record.last_failure))
    if record.started_at is not None:
        engine.start_time.CopyFrom(_timestamp(record))
    return engine


def failure_to(failure: EngineFailure) -> Failure:
    """Why an engine failed, as kept with its record: no field to blame."""
    status = StatusCode.FAILED_PRECONDITION if failure.permanent else StatusCode.INTERNAL
    code: int = status.value[0]
    return Failure(code=code, reason=failure.reason, message=failure.message)


def change_to(change: Change, *, memory_bytes: int) -> pb.WatchEnginesResponse:
    """One change of an engine, or the end of the engines that were there at the start."""
    if change.record is None:
        return pb.WatchEnginesResponse(sequence=change.sequence, synced=True)
    engine = engine_to(change.record, memory_bytes=memory_bytes)
    return pb.WatchEnginesResponse(sequence=change.sequence, engine=engine)


def runtime_info_to(
    device: Device, memory: Memory, *, runtime_id: str
) -> pb.GetRuntimeInfoResponse:
    """The host's facts."""
    return pb.GetRuntimeInfoResponse(
        runtime_id=runtime_id,
        host=device.host,
        platform=device.platform,
        device=device.kind,
        device_name=device.name,
        memory_total_bytes=memory.total_bytes,
        memory_available_bytes=memory.available_bytes,
        cores=device.cores,
        versions=device.versions,
    )


def _timestamp(record: EngineRecord) -> Timestamp:
    timestamp = Timestamp()
    if record.started_at is not None:
        timestamp.FromDatetime(record.started_at)
    return timestamp
