"""Engines and failures: RuntimeService's messages to domain objects and back."""

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.runtime.v1 import runtime_pb2
from mlxmesh_model.catalogue.models import FailureRecord, Phase, Version
from mlxmesh_model.replicas.placement import Engine
from mlxmesh_shared.errors import MeshError
from mlxmesh_shared.rpc.error_status import from_failure

_PHASES = {
    runtime_pb2.ENGINE_STATE_READY: Phase.READY,
    runtime_pb2.ENGINE_STATE_FAILED: Phase.FAILED,
}


def start_request(engine_id: str, version: Version) -> runtime_pb2.StartEngineRequest:
    """The request to start an engine of a version."""
    return runtime_pb2.StartEngineRequest(
        engine_id=engine_id,
        model=version.model,
        model_version=version.number,
        model_dir=version.artifact.directory if version.artifact else "",
    )


def stop_request(engine_id: str) -> runtime_pb2.StopEngineRequest:
    """The request to stop an engine; the runtime decides on the grace period."""
    return runtime_pb2.StopEngineRequest(engine_id=engine_id)


def info_request() -> runtime_pb2.GetRuntimeInfoRequest:
    """The request for a runtime's memory."""
    return runtime_pb2.GetRuntimeInfoRequest()


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
        running=engine.running_sequences,
        waiting=engine.waiting_sequences,
        longest_wait_ms=engine.longest_wait_ms,
        idle_ms=engine.idle_ms,
    )


def to_failure(failure: FailureRecord) -> Failure:
    """A stored failure as a message."""
    return Failure(code=failure.code, reason=failure.reason, message=failure.message)


def to_error(failure: FailureRecord) -> MeshError:
    """A stored failure as an error to raise."""
    return from_failure(to_failure(failure))
