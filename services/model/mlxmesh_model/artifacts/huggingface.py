"""A hub with the Hugging Face protocol: finding models and resumable downloads."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from mlxmesh_model.artifacts.folder import is_pickle, is_text, is_weights
from mlxmesh_model.artifacts.hub import Fetch, HubModel
from mlxmesh_model.artifacts.progress import Progress
from mlxmesh_shared.artifacts.part_file import PartFile
from mlxmesh_shared.artifacts.remote_file import RemoteFile
from mlxmesh_shared.artifacts.threads import in_thread
from mlxmesh_shared.errors import HubUnavailable, InvalidArgument, SourceNotFound
from mlxmesh_shared.host.json_file import MIB, max_file_bytes

_log = logging.getLogger(__name__)

_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
# Both become names of files.
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT_OID = re.compile(r"[0-9a-f]{40}")
_PART_OF_MANY = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.gguf$")
_TIMEOUT_S = 30.0
_READ_BYTES = 1024 * 1024


class HuggingFaceHub:
    """The hub at an endpoint; the default is HF_ENDPOINT. Sends HF_TOKEN if it is set."""

    def __init__(self, endpoint: str = "", *, attempts: int = 4, pause_s: float = 1.0) -> None:
        self._endpoint = endpoint.rstrip("/") or None
        self._api = HfApi(endpoint=self._endpoint)
        self._attempts = attempts
        self._pause_s = pause_s

    async def find(self, repo_id: str, revision: str, file: str = "") -> HubModel:
        """The files of a model; with `file`, only that one.

        Raises: SourceNotFound, HubUnavailable, InvalidArgument.
        """
        try:
            info = await asyncio.to_thread(
                self._api.model_info,
                repo_id,
                revision=revision,
                files_metadata=True,
                timeout=_TIMEOUT_S,
            )
        except RevisionNotFoundError as error:
            raise SourceNotFound(f"{repo_id} has no revision {revision}") from error
        except GatedRepoError as error:
            raise SourceNotFound(f"{repo_id} is gated; accept its terms, set HF_TOKEN") from error
        except RepositoryNotFoundError as error:
            raise SourceNotFound(
                f"the hub has no model {repo_id}, or it is private and HF_TOKEN is not set"
            ) from error
        except (HfHubHTTPError, httpx2.HTTPError, OSError, ValueError) as error:
            raise _unavailable(self._api.endpoint, error) from error
        siblings, commit = info.siblings or [], info.sha or revision
        if file:
            return HubModel(repo_id, commit, (_only(repo_id, siblings, file),))
        return _checked(repo_id, commit, siblings)

    @asynccontextmanager
    async def fetching(self, model: HubModel) -> AsyncGenerator[Fetch]:
        """Downloads files of the model on one connection; see the port."""
        # A compressed download could not be continued from a byte offset.
        headers = {"accept-encoding": "identity"}
        if token := get_token():
            headers["authorization"] = f"Bearer {token}"
        async with httpx2.AsyncClient(
            headers=headers, follow_redirects=True, timeout=_TIMEOUT_S
        ) as client:
            yield partial(self._fetch, client, model)

    async def _fetch(
        self, client: httpx2.AsyncClient, model: HubModel, part: PartFile, progress: Progress
    ) -> None:
        """Downloads the rest of one file, with retries that continue it."""
        name = part.file.name
        url = hf_hub_url(model.repo_id, name, revision=model.commit, endpoint=self._endpoint)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=self._pause_s, max=30),
            retry=retry_if_exception_type(httpx2.HTTPError),
            reraise=True,
        )
        try:
            await retrying(_stream, client, url, part, progress)
        except httpx2.HTTPError as error:
            raise _unavailable(self._api.endpoint, error) from error


async def _stream(client: httpx2.AsyncClient, url: str, part: PartFile, progress: Progress) -> None:
    """Downloads the missing rest of a file."""
    offset = part.size_bytes
    if offset >= part.file.size_bytes:
        return
    headers = {"range": f"bytes={offset}-"} if offset else {}
    async with client.stream("GET", url, headers=headers) as response:
        if response.status_code == _RANGE_NOT_SATISFIABLE:
            part.remove()  # the next attempt starts over
            progress.done_bytes -= offset
        response.raise_for_status()
        if response.status_code != _PARTIAL_CONTENT:
            progress.done_bytes -= offset  # the hub sends the file from its start
            offset = 0
        async for chunk in response.aiter_raw(_READ_BYTES):
            await in_thread(part.write_at, offset, chunk)
            offset += len(chunk)
            progress.done_bytes += len(chunk)
            if offset > part.file.size_bytes:
                return  # larger than announced: the checksum will not match


def _only(repo_id: str, siblings: list[RepoSibling], file: str) -> RemoteFile:
    """The requested file."""
    if _PART_OF_MANY.search(file):
        raise InvalidArgument(
            f"{file} is one part of a split file, which is not supported", field="file"
        )
    for sibling in siblings:
        if sibling.rfilename == file:
            return _hub_file(sibling)
    others = sorted(s.rfilename for s in siblings if s.rfilename.endswith(".gguf"))[:20]
    raise SourceNotFound(
        f"{repo_id} has no file {file}; its GGUF files are {', '.join(others) or 'none'}",
        field="file",
    )


def _checked(repo_id: str, commit: str, siblings: list[RepoSibling]) -> HubModel:
    """The files needed to serve the model. Text files first: they are small, and an invalid one
    ends the pull early.
    """
    names = [sibling.rfilename for sibling in siblings]
    if not any(map(is_weights, names)):
        what = "pickled weights only" if any(map(is_pickle, names)) else "no weights"
        raise InvalidArgument(f"{repo_id} has {what}; safetensors are required", field="repo_id")
    wanted = [s for s in siblings if is_text(s.rfilename) or is_weights(s.rfilename)]
    for sibling in wanted:
        _check_size(repo_id, sibling)
    wanted.sort(key=lambda s: (is_weights(s.rfilename), s.rfilename))
    return HubModel(repo_id, commit, tuple(map(_hub_file, wanted)))


def _check_size(repo_id: str, sibling: RepoSibling) -> None:
    """Rejects a file before the download if validation would reject it afterwards."""
    name, max_bytes = sibling.rfilename, max_file_bytes(sibling.rfilename)
    if is_text(name) and (sibling.size or 0) > max_bytes:
        raise InvalidArgument(
            f"{repo_id}: {name} is larger than {max_bytes // MIB} MiB", field="repo_id"
        )


def _hub_file(sibling: RepoSibling) -> RemoteFile:
    """The file with the checksum that the hub reports. Raises: HubUnavailable for nonsense."""
    name, size = sibling.rfilename, sibling.size
    sha = sibling.lfs.sha256 if sibling.lfs else ""
    oid = "" if sha else sibling.blob_id or ""
    if not (_SHA256.fullmatch(sha) if sha else _GIT_OID.fullmatch(oid)):
        raise HubUnavailable(f"the hub reports no checksum for {name}")
    if not isinstance(size, int) or size < 0:
        raise HubUnavailable(f"the hub reports no size for {name}")
    return RemoteFile(name, size, sha, oid)


def _unavailable(endpoint: str, error: Exception) -> HubUnavailable:
    _log.warning("%s: %r", endpoint, error)
    return HubUnavailable(
        f"the hub at {endpoint} cannot be reached or interrupted the download"
        f" ({type(error).__name__}); pull again to continue"
    )
