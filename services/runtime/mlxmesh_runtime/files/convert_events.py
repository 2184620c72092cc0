"""The events of fetches."""

from typing import TypedDict

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.telemetry.v1 import events_pb2 as events
from mlxmesh_runtime.files.file_fetch import Progress
from mlxmesh_runtime.files.sources import Role
from mlxmesh_runtime.files.wanted import Wanted
from mlxmesh_shared.errors import MeshError


class _Subject(TypedDict):
    model: str
    version: int
    digest: str
    runtime_id: str


def fetch_started(wanted: Wanted, runtime_id: str, progress: Progress) -> events.ModelFetchStarted:
    """A fetch began."""
    return events.ModelFetchStarted(
        **_subject(wanted, runtime_id),
        total_bytes=progress.total_bytes,
        missing_bytes=progress.total_bytes - progress.done_bytes,
    )


def fetched(
    wanted: Wanted, runtime_id: str, progress: Progress, duration_s: float
) -> events.ModelFetched:
    """A fetch ended."""
    return events.ModelFetched(
        **_subject(wanted, runtime_id),
        model_service_bytes=progress.received[Role.MODEL],
        runtime_bytes=progress.received[Role.RUNTIME],
        duration_ms=round(duration_s * 1000),
    )


def fetch_failed(wanted: Wanted, runtime_id: str, error: MeshError) -> events.ModelFetchFailed:
    """A fetch failed."""
    code: int = error.code.value[0]
    failure = Failure(code=code, reason=error.reason, message=error.message)
    return events.ModelFetchFailed(**_subject(wanted, runtime_id), failure=failure)


def _subject(wanted: Wanted, runtime_id: str) -> _Subject:
    return {
        "model": wanted.model,
        "version": wanted.version,
        "digest": wanted.digest,
        "runtime_id": runtime_id,
    }
