"""Engines and failures: RuntimeService's messages to domain objects and back."""

from collections.abc import Collection, Mapping
from typing import Any

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh_model.catalogue.models import FailureRecord, ModelKind, Phase, Version
from mlxmesh_model.replicas.placement import Engine, Fetch, Runtime
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.error_status import from_failure

_PHASES = {
    runtime_pb2.ENGINE_STATE_READY: Phase.READY,
    runtime_pb2.ENGINE_STATE_FAILED: Phase.FAILED,
}


def start_request(
    engine_id: str, version: Version, draft: Version | None = None
) -> runtime_pb2.StartEngineRequest:
    """The request to start an engine of a version. draft: its draft model."""
    return runtime_pb2.StartEngineRequest(
        engine_id=engine_id,
        model=version.model,
        model_version=version.number,
        model_dir=version.artifact.directory if version.artifact else "",
        options=_options(version, draft),
        files=_files(version),
        draft_files=_files(draft) if draft is not None else None,
    )


def _files(version: Version) -> runtime_pb2.ModelFiles | None:
    artifact = version.artifact
    if artifact is None:
        return None
    return runtime_pb2.ModelFiles(digest=artifact.digest, weights_bytes=artifact.weights_bytes)


def _options(version: Version, draft: Version | None) -> runtime_pb2.EngineOptions:
    """The settings that are an engine's; the others are about its output. An engine's default is to
    generate text.
    """
    names = runtime_pb2.EngineOptions.DESCRIPTOR.fields_by_name
    given: dict[str, Any] = {n: v for n, v in version.settings.given.items() if n in names}
    if version.artifact and version.artifact.kind is not ModelKind.GENERATION:
        given["kind"] = version.artifact.kind.value
    if draft is not None and draft.artifact is not None:
        given["draft_model_dir"] = draft.artifact.directory
    return runtime_pb2.EngineOptions(**given)


def stop_request(engine_id: str) -> runtime_pb2.StopEngineRequest:
    """The request to stop an engine; the runtime decides on the grace period."""
    return runtime_pb2.StopEngineRequest(engine_id=engine_id)


def info_request() -> runtime_pb2.GetRuntimeInfoRequest:
    """The request for a runtime's memory."""
    return runtime_pb2.GetRuntimeInfoRequest()


def prune_request(
    needed_digests: Collection[str], *, dry_run: bool
) -> runtime_pb2.PruneFilesRequest:
    """The request to remove the fetched files of all other versions and adapters."""
    return runtime_pb2.PruneFilesRequest(needed_digests=sorted(needed_digests), dry_run=dry_run)


def list_request(page_token: str) -> runtime_pb2.ListEnginesRequest:
    """The request for one page of a runtime's engines."""
    return runtime_pb2.ListEnginesRequest(page_size=1000, page_token=page_token)


def watch_request() -> runtime_pb2.WatchEnginesRequest:
    """The request for every change of a runtime's engines."""
    return runtime_pb2.WatchEnginesRequest()


def to_engine(engine: runtime_pb2.Engine) -> Engine:
    """An engine as its runtime reports it."""
    failure = None
    if engine.HasField("last_failure"):
        last = engine.last_failure
        failure = FailureRecord(last.code, last.reason, last.message)
    return Engine(
        engine.engine_id,
        _PHASES.get(engine.state, Phase.STARTING),
        failure,
        memory_bytes=engine.memory_bytes,
        running_sequences=engine.running_sequences,
        waiting_sequences=engine.waiting_sequences,
        longest_wait_ms=engine.longest_wait_ms,
        idle_ms=engine.idle_ms,
        background_sequences=engine.background_sequences,
        fetch=Fetch(engine.fetch.done_bytes, engine.fetch.total_bytes)
        if engine.HasField("fetch")
        else None,
        ranks={each.rank: each.runtime_id for each in engine.ranks},
        round_trips_us={each.rank: each.round_trip_us for each in engine.ranks},
    )


def to_runtime(
    runtime_id: str,
    info: runtime_pb2.GetRuntimeInfoResponse,
    engines: Mapping[str, Engine],
    *,
    draining: bool,
    host: str = "",
) -> Runtime:
    """A runtime that responds."""
    return Runtime(
        runtime_id,
        info.memory_available_bytes,
        engines,
        draining,
        memory_shortage_bytes=info.memory_shortage_bytes,
        memory_limit_bytes=info.memory_limit_bytes,
        host=host,
    )


def to_failure(failure: FailureRecord) -> Failure:
    """A stored failure as a message."""
    return Failure(code=failure.code, reason=failure.reason, message=failure.message)


def to_error(failure: FailureRecord) -> MeshError:
    """A stored failure as an error to raise."""
    return from_failure(to_failure(failure))
