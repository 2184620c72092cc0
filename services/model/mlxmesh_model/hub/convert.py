"""Converts listings and downloads to HubService's messages and back."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from mlxmesh.model.v1 import hub_pb2 as pb
from mlxmesh_model.hub.download import Download, State, Wanted
from mlxmesh_model.hub.fit import Choice, Fit
from mlxmesh_model.hub.listing import Format, Query, Sort
from mlxmesh_model.hub.search import Found
from mlxmesh_model.replicas.convert import to_failure
from mlxmesh_shared.errors import InvalidArgument

_DEFAULT_PAGE_SIZE = 20
_MAX_FILES = 1000
_SORTS = {
    pb.HUB_SORT_UNSPECIFIED: Sort.TREND,
    pb.HUB_SORT_DOWNLOADS: Sort.DOWNLOADS,
    pb.HUB_SORT_LIKES: Sort.LIKES,
    pb.HUB_SORT_UPDATED: Sort.UPDATED,
}
_FORMATS = {
    pb.HUB_FORMAT_UNSPECIFIED: Format.MLX,
    pb.HUB_FORMAT_MLX: Format.MLX,
    pb.HUB_FORMAT_GGUF: Format.GGUF,
    pb.HUB_FORMAT_ALL: Format.ALL,
}
_FITS = {
    Fit.UNKNOWN: pb.FIT_UNSPECIFIED,
    Fit.NOW: pb.FIT_NOW,
    Fit.AFTER_UNLOADING: pb.FIT_AFTER_UNLOADING,
    Fit.NEVER: pb.FIT_NEVER,
    Fit.REFUSED: pb.FIT_REFUSED,
}
_STATES = {
    State.WAITING: pb.DOWNLOAD_STATE_WAITING,
    State.RUNNING: pb.DOWNLOAD_STATE_RUNNING,
    State.PAUSED: pb.DOWNLOAD_STATE_PAUSED,
    State.FAILED: pb.DOWNLOAD_STATE_FAILED,
    State.COMPLETED: pb.DOWNLOAD_STATE_COMPLETED,
}


def from_search(request: pb.SearchHubRequest) -> Query:
    """The query of a search."""
    return Query(
        text=request.text.strip(),
        author=request.author,
        sort=_SORTS[request.sort],
        format=_FORMATS[request.format],
        limit=request.page_size or _DEFAULT_PAGE_SIZE,
        cursor=request.page_token,
    )


def to_hub_model(found: Found) -> pb.HubModel:
    """A model of the hub."""
    listing, installed = found.listing, found.installed
    mlx = next((each.size_bytes for each in found.choices if not each.file), 0)
    return pb.HubModel(
        repo_id=listing.repo_id,
        licence=listing.licence,
        gated=listing.gated,
        downloads=listing.downloads,
        likes=listing.likes,
        updated=_timestamp(listing.updated_at),
        tags=listing.tags,
        architecture=listing.architecture or listing.gguf_architecture,
        quantization=listing.quantization,
        parameters=listing.parameters,
        size_bytes=mlx or listing.weights_bytes,
        files=[
            pb.HubFile(path=file.name, size_bytes=file.size_bytes or 0)
            for file in listing.files[:_MAX_FILES]
        ],
        choices=map(_to_choice, found.choices[:_MAX_FILES]),
        revision=listing.commit if listing.files else "",
        installed_version=installed.number if installed else 0,
        installed_name=installed.model if installed else "",
        fit=_FITS[found.verdict.fit],
        fit_reason=found.verdict.reason,
    )


def _to_choice(choice: Choice) -> pb.HubChoice:
    return pb.HubChoice(
        file=choice.file,
        size_bytes=choice.size_bytes,
        memory_bytes=choice.memory_bytes,
        fit=_FITS[choice.verdict.fit],
        reason=choice.verdict.reason,
    )


def from_start(request: pb.StartDownloadRequest) -> Wanted:
    """What to download. Raises: InvalidArgument."""
    if request.dtype and not request.file:
        raise InvalidArgument("dtype requires file, a GGUF file", field="dtype")
    return Wanted(
        repo_id=request.repo_id,
        revision=request.revision or "main",
        name=request.name or request.repo_id.rpartition("/")[2],
        file=request.file,
        dtype=request.dtype,
    )


def to_download(download: Download) -> pb.Download:
    """A download."""
    wanted = download.wanted
    return pb.Download(
        download_id=download.download_id,
        source=pb.StartDownloadRequest(
            repo_id=wanted.repo_id,
            revision=wanted.revision,
            name=wanted.name,
            file=wanted.file,
            dtype=wanted.dtype,
            load=download.load,
        ),
        state=_STATES[download.state],
        done_bytes=download.done_bytes,
        total_bytes=download.total_bytes,
        bytes_per_second=download.bytes_per_second,
        file=download.file,
        create_time=_timestamp(download.created_at),
        end_time=_timestamp(download.ended_at),
        failure=to_failure(download.failure) if download.failure else None,
        version=download.version,
        attempt=download.attempt,
        principal=download.principal,
    )


def _timestamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
