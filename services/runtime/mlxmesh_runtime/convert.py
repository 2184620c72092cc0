"""Converts the contracts' messages to the runtime's own types and back."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.engine.v1 import engine_pb2
from mlxmesh.runtime.v1 import runtime_pb2 as pb
from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_runtime.change_feed import Change
from mlxmesh_runtime.device import Device
from mlxmesh_runtime.engine_command import RankPlace
from mlxmesh_runtime.engine_record import (
    NO_LOAD,
    EngineFailure,
    EngineHealth,
    EngineLoad,
    EngineOptions,
    EngineRecord,
    EngineSpec,
    FailureReason,
    ModelFiles,
)
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.lifecycle import EngineState
from mlxmesh_runtime.memory_guard import MemoryStatus
from mlxmesh_runtime.rank_state import RankState

HEALTH_REQUEST = engine_pb2.GetEngineInfoRequest()
INFO_REQUEST = pb.GetRuntimeInfoRequest()
_CODES = {
    FailureReason.REFUSED: StatusCode.FAILED_PRECONDITION,
    FailureReason.FILES_DAMAGED: StatusCode.FAILED_PRECONDITION,
    FailureReason.DISK_FULL: StatusCode.RESOURCE_EXHAUSTED,
    FailureReason.FETCH_FAILED: StatusCode.UNAVAILABLE,
}
_STATES = {state: pb.EngineState.Value(f"ENGINE_STATE_{state.name}") for state in EngineState}


def spec_from(request: pb.StartEngineRequest) -> EngineSpec:
    """What to run; an option that is not set, or is an empty text, keeps the engine's default."""
    options = request.options
    set_options = {field.name: value for field, value in options.ListFields() if value != ""}
    return EngineSpec(
        engine_id=request.engine_id,
        model=request.model,
        model_version=request.model_version,
        model_dir=Path(request.model_dir),
        options=EngineOptions(**set_options),
        files=_files_from(request.files) if request.HasField("files") else None,
        draft_files=_files_from(request.draft_files) if request.HasField("draft_files") else None,
    )


def host_rank_request(spec: EngineSpec, place: RankPlace) -> pb.HostRankRequest:
    """The request to another runtime to run a rank of this engine's group."""
    given = {name: value for name, value in asdict(spec.options).items() if value is not None}
    return pb.HostRankRequest(
        engine=pb.StartEngineRequest(
            engine_id=spec.engine_id,
            model=spec.model,
            model_version=spec.model_version,
            model_dir=str(spec.model_dir),
            options=pb.EngineOptions(**given),
            files=_files_to(spec.files) if spec.files is not None else None,
        ),
        rank=place.rank,
        leader=place.leader,
        share_ppm=place.share_ppm,
    )


def rank_state_to(state: RankState) -> pb.HostRankResponse:
    """How far a rank is, as a message."""
    response = pb.HostRankResponse(pid=state.pid)
    if state.fetch is not None:
        _set_fetch(response.fetch, state.fetch)
    return response


def rank_state_from(response: pb.HostRankResponse) -> RankState:
    """How far a rank on another host is."""
    fetch = response.fetch
    progress = Progress(fetch.done_bytes, fetch.total_bytes) if response.HasField("fetch") else None
    return RankState(response.pid, progress)


def place_from(request: pb.HostRankRequest) -> RankPlace:
    """Which rank to run, and whom it follows."""
    return RankPlace(request.rank, request.leader, request.share_ppm)


def _files_to(files: ModelFiles) -> pb.ModelFiles:
    return pb.ModelFiles(digest=files.digest, weights_bytes=files.weights_bytes)


def _set_fetch(message: pb.FetchProgress, fetch: Progress) -> None:
    message.done_bytes, message.total_bytes = fetch.done_bytes, fetch.total_bytes
    message.SetInParent()


def _files_from(files: pb.ModelFiles) -> ModelFiles:
    return ModelFiles(files.digest, files.weights_bytes)


def engine_to(
    record: EngineRecord,
    *,
    memory_bytes: int,
    load: EngineLoad = NO_LOAD,
    log_tail: tuple[str, ...] = (),
    fetch: Progress | None = None,
) -> pb.Engine:
    """An engine's record and load as a message."""
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
        running_sequences=load.running,
        waiting_sequences=load.waiting,
        longest_wait_ms=load.longest_wait_ms,
        idle_ms=load.idle_ms,
        background_sequences=load.background,
        ranks=[
            pb.Rank(
                rank=each.rank,
                runtime_id=each.runtime_id,
                pid=each.pid,
                round_trip_us=_microseconds(each.round_trip_ms),
            )
            for each in record.ranks
        ],
    )
    if fetch is not None:
        _set_fetch(engine.fetch, fetch)
    if record.last_failure is not None:
        engine.last_failure.CopyFrom(failure_to(record.last_failure))
    if record.started_at is not None:
        engine.start_time.CopyFrom(_timestamp(record))
    return engine


def _microseconds(round_trip_ms: float) -> int:
    """0 if it is not known, or if the rank runs on the same runtime."""
    return round(round_trip_ms * 1000) if math.isfinite(round_trip_ms) else 0


def failure_to(failure: EngineFailure) -> Failure:
    """An engine's failure as a message; it names no field."""
    code: int = _CODES.get(failure.reason, StatusCode.INTERNAL).value[0]
    return Failure(code=code, reason=failure.reason, message=failure.message)


def change_to(change: Change, engine: pb.Engine | None) -> pb.WatchEnginesResponse:
    """One change: an engine, a shortage of memory, or the mark after the engines at the start."""
    if change.shortage_bytes is not None:
        return pb.WatchEnginesResponse(
            sequence=change.sequence, memory_shortage_bytes=change.shortage_bytes
        )
    if engine is None:
        return pb.WatchEnginesResponse(sequence=change.sequence, synced=True)
    return pb.WatchEnginesResponse(sequence=change.sequence, engine=engine)


def health_from(info: engine_pb2.GetEngineInfoResponse) -> EngineHealth:
    """An engine's answer to HEALTH_REQUEST."""
    return EngineHealth(
        device=info.device,
        time_since_progress_s=info.time_since_progress_ms / 1000,
        load=EngineLoad(
            running=info.load.running,
            waiting=info.load.waiting,
            longest_wait_ms=info.load.longest_wait_ms,
            idle_ms=info.load.idle_ms,
            background=info.load.background_running + info.load.background_waiting,
        ),
    )


def runtime_info_to(
    device: Device, status: MemoryStatus, *, runtime_id: str
) -> pb.GetRuntimeInfoResponse:
    """The properties of the host."""
    return pb.GetRuntimeInfoResponse(
        runtime_id=runtime_id,
        host=device.host,
        platform=device.platform,
        device=device.kind,
        device_name=device.name,
        memory_total_bytes=status.memory.total_bytes,
        memory_available_bytes=status.available_bytes,
        memory_limit_bytes=status.limit_bytes,
        memory_shortage_bytes=status.shortage_bytes,
        engines_bytes=status.engines.resident_bytes,
        cores=device.cores,
        versions=device.versions,
    )


def memory_event_to(status: MemoryStatus) -> Message:
    """The event of a shortage that began, or that ended."""
    if not status.shortage_bytes:
        return events.EngineMemoryRecovered(
            available_bytes=status.memory.available_bytes,
            engines_bytes=status.engines.resident_bytes,
        )
    return events.EngineMemoryShort(
        shortage_bytes=status.shortage_bytes,
        available_bytes=status.memory.available_bytes,
        engines_bytes=status.engines.resident_bytes,
        limit_bytes=status.limit_bytes,
    )


class _Subject(TypedDict):
    engine_id: str
    model: str
    model_version: int


def engine_event_to(before: EngineRecord | None, after: EngineRecord) -> Message | None:
    """The event for a change of an engine's record; None if others need not know of it."""
    moved = before is None or before.state is not after.state
    had_process = before is not None and before.pid != 0
    spec, failure = after.spec, after.last_failure
    subject: _Subject = {
        "engine_id": spec.engine_id,
        "model": spec.model,
        "model_version": spec.model_version,
    }
    cause = failure_to(failure) if failure is not None else None
    match after.state:
        case EngineState.STARTING if after.pid and not had_process:
            return events.EngineStarted(**subject, pid=after.pid, restarts=after.restarts)
        case EngineState.READY if moved:
            return events.EngineReady(**subject, address=after.address, restarts=after.restarts)
        case EngineState.BACKOFF if moved:
            return events.EngineCrashed(**subject, failure=cause, restarts=after.restarts)
        case EngineState.FAILED if moved:
            return events.EngineFailed(**subject, failure=cause)
        case EngineState.DRAINING if had_process and not after.pid:
            return events.EngineDrained(**subject)
        case EngineState.STOPPED:
            return events.EngineStopped(**subject)
        case _:
            return None


def _timestamp(record: EngineRecord) -> Timestamp:
    timestamp = Timestamp()
    if record.started_at is not None:
        timestamp.FromDatetime(record.started_at)
    return timestamp
