"""The catalogue's domain objects to wire messages and back."""

import base64
from collections.abc import Callable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.common.v1.failure_pb2 import Failure
from mlxmesh.model.v1 import model_pb2
from mlxmesh_model.artifacts.pulls import PullProgress
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Artifact, Change, FailureRecord, Model, Version
from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.rpc.error_status import from_failure

_STATES = {
    State.PULLING: model_pb2.VERSION_STATE_PULLING,
    State.PULL_FAILED: model_pb2.VERSION_STATE_FAILED,
    State.AVAILABLE: model_pb2.VERSION_STATE_AVAILABLE,
    State.LOADING: model_pb2.VERSION_STATE_LOADING,
    State.READY: model_pb2.VERSION_STATE_READY,
    State.UNLOADING: model_pb2.VERSION_STATE_UNLOADING,
    State.LOAD_FAILED: model_pb2.VERSION_STATE_FAILED,
}
PassedOverBy = Callable[[Version], Mapping[str, FailureRecord]]
"""Which runtimes refused a version, and why."""
# Tells our tokens from other texts.
_PAGE = "after:"
_NOTHING_ON_DISK = Artifact("", "", "", 0, 0, "", 0, 0)


def _nobody(_: Version) -> Mapping[str, FailureRecord]:
    return {}


def to_model(
    model: Model, *, only: Version | None = None, passed_over: PassedOverBy = _nobody
) -> model_pb2.Model:
    """A model, with all its versions or only one of them."""
    versions = [version for version in model.versions if only in (None, version)]
    return model_pb2.Model(
        name=model.name,
        versions=[to_version(version, passed_over(version)) for version in versions],
        aliases=model.aliases,
        default_version=model.default_version,
    )


def to_version(
    version: Version, passed_over: Mapping[str, FailureRecord] | None = None
) -> model_pb2.ModelVersion:
    """A version; what is not known before it is on disk stays unset."""
    artifact = version.artifact or _NOTHING_ON_DISK
    created = Timestamp()
    created.FromDatetime(version.created_at)
    return model_pb2.ModelVersion(
        version=version.number,
        state=_STATES[version.state],
        source=str(version.source),
        digest=artifact.digest,
        architecture=artifact.architecture,
        parameters=artifact.parameters,
        weights_bytes=artifact.weights_bytes,
        dtype=artifact.dtype,
        context_tokens=artifact.context_tokens,
        vocab_size=artifact.vocab_size,
        desired_replicas=version.desired_replicas,
        ready_replicas=version.ready_replicas,
        failure=to_failure(version.failure) if version.failure else None,
        create_time=created,
        retry_in_ms=round(version.retry_in_s * 1000),
        passed_over={one: to_failure(why) for one, why in (passed_over or {}).items()},
    )


def to_change(change: Change) -> model_pb2.WatchModelsResponse:
    """A change, as a watcher gets it."""
    if change.model is None:
        return model_pb2.WatchModelsResponse(sequence=change.sequence, removed_name=change.name)
    return model_pb2.WatchModelsResponse(sequence=change.sequence, model=to_model(change.model))


def to_progress(step: PullProgress) -> model_pb2.PullModelResponse:
    """How far a pull is."""
    return model_pb2.PullModelResponse(
        name=step.name,
        done_bytes=step.progress.done_bytes,
        total_bytes=step.progress.total_bytes,
        file=step.progress.file,
        version=to_version(step.version) if step.version else None,
    )


def to_import_progress(step: PullProgress) -> model_pb2.ImportModelResponse:
    """How far an import is."""
    return model_pb2.ImportModelResponse(
        name=step.name,
        done_bytes=step.progress.done_bytes,
        total_bytes=step.progress.total_bytes,
        version=to_version(step.version) if step.version else None,
    )


def to_page_token(name: str) -> str:
    """The token for the models after a name."""
    return base64.urlsafe_b64encode(f"{_PAGE}{name}".encode()).decode()


def from_page_token(token: str) -> str:
    """The name that a page starts after.

    Raises: InvalidArgument for what to_page_token did not make.
    """
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    if token and not text.startswith(_PAGE):
        raise InvalidArgument(
            "page_token must be next_page_token of an earlier answer", field="page_token"
        )
    return text.removeprefix(_PAGE)


def to_failure(failure: FailureRecord) -> Failure:
    """A kept failure."""
    return Failure(code=failure.code, reason=failure.reason, message=failure.message)


def to_error(failure: FailureRecord) -> MeshError:
    """A kept failure, to be raised."""
    return from_failure(to_failure(failure))
