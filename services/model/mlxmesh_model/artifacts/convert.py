"""Converts inventories, checks and removals to ArtifactService's messages and back."""

import base64
import re

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import artifact_pb2 as pb
from mlxmesh_model.artifacts.inventory import ArtifactState, Page, VersionFiles
from mlxmesh_model.artifacts.pruning import UNFINISHED_AFTER_S, Removal
from mlxmesh_model.artifacts.verification import Check
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference

_STATES = {
    ArtifactState.STORED: pb.ARTIFACT_STATE_STORED,
    ArtifactState.EXTERNAL: pb.ARTIFACT_STATE_EXTERNAL,
    ArtifactState.INCOMPLETE: pb.ARTIFACT_STATE_INCOMPLETE,
    ArtifactState.DAMAGED: pb.ARTIFACT_STATE_DAMAGED,
}
_TOKEN = re.compile(r"after:([A-Za-z0-9._-]{1,96})@([0-9]{1,9})")


def to_page(page: Page) -> pb.ListArtifactsResponse:
    """A page of artifacts; its token is the last version on it."""
    last = page.items[-1].version if page.has_more else None
    return pb.ListArtifactsResponse(
        artifacts=map(to_artifact, page.items),
        next_page_token=_to_token(last.model, last.number) if last else "",
        stored_bytes=page.stored_bytes,
        prunable_bytes=page.prunable_bytes,
        free_bytes=page.free_bytes,
    )


def to_artifact(files: VersionFiles) -> pb.Artifact:
    """The files of one version."""
    version = files.version
    verified = None
    if files.verified_at is not None:
        verified = Timestamp()
        verified.FromDatetime(files.verified_at)
    return pb.Artifact(
        model=version.model,
        version=version.number,
        digest=version.artifact.digest if version.artifact else "",
        state=_STATES[files.state],
        bytes=files.size_bytes,
        shared_bytes=files.shared_bytes,
        directory=version.artifact.directory if version.artifact else "",
        damaged_files=version.damaged_files,
        verify_time=verified,
    )


def to_check(check: Check, files: VersionFiles | None) -> pb.VerifyArtifactsResponse:
    """Progress, with the version that was checked, if one was."""
    return pb.VerifyArtifactsResponse(
        done_bytes=check.done_bytes,
        total_bytes=check.total_bytes,
        artifact=to_artifact(files) if files else None,
    )


def to_removal(
    removal: Removal, fetched_files: int = 0, fetched_bytes: int = 0
) -> pb.PruneArtifactsResponse:
    """What was removed here, and of what runtimes had fetched."""
    return pb.PruneArtifactsResponse(
        files=len(removal.files),
        freed_bytes=removal.freed_bytes,
        fetched_files=fetched_files,
        fetched_bytes=fetched_bytes,
    )


def from_verify(request: pb.VerifyArtifactsRequest) -> ModelReference | None:
    """What to verify; None for every model."""
    return ModelReference.parse(request.model) if request.model else None


def from_prune(request: pb.PruneArtifactsRequest) -> float:
    """After how many seconds without progress a download is removed."""
    given = request.HasField("unfinished_after_s")
    return request.unfinished_after_s if given else UNFINISHED_AFTER_S


def from_token(token: str) -> tuple[str, int]:
    """The model and version that a page starts after.

    Raises: InvalidArgument for a token that to_page did not make.
    """
    if not token:
        return "", 0
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError:
        text = ""
    match = _TOKEN.fullmatch(text)
    if match is None:
        raise InvalidArgument(
            "page_token must be next_page_token of an earlier response", field="page_token"
        )
    return match[1], int(match[2])


def _to_token(model: str, number: int) -> str:
    return base64.urlsafe_b64encode(f"after:{model}@{number}".encode()).decode()
