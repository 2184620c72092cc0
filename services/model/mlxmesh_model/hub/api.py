"""What a hub with the Hugging Face API tells of models: search, and the files of one."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.hf_api import ModelInfo

from mlxmesh_model.hub.listing import Listing, Page, Query
from mlxmesh_model.hub.model_info import listing_of
from mlxmesh_shared.errors import HubUnavailable, InvalidArgument, SourceNotFound

_log = logging.getLogger(__name__)

TIMEOUT_S = 10.0
MAX_CONCURRENT = 4
MAX_CURSOR = 2048
_EXPANDED = (
    *("cardData", "config", "downloads", "gated", "gguf", "lastModified", "likes"),
    *("safetensors", "sha", "tags"),
)
_NOT_FOUND = frozenset({401, 403, 404})
_ILLEGAL = frozenset({400, 422})


class HuggingFaceApi:
    """The API at an endpoint; the default is HF_ENDPOINT. Sends HF_TOKEN if it is set.

    Not HfApi.list_models: it has neither a timeout nor pages, and repeats failed calls for half a
    minute while somebody waits for the answer.
    """

    def __init__(self, endpoint: str = "", *, timeout_s: float = TIMEOUT_S) -> None:
        self._endpoint = HfApi(endpoint=endpoint.rstrip("/") or None).endpoint
        self._timeout_s = timeout_s
        self._limit = asyncio.Semaphore(MAX_CONCURRENT)

    async def search(self, query: Query) -> Page:
        """A page of models. Raises: HubUnavailable. InvalidArgument for an illegal cursor."""
        parameters: dict[str, Any] = {
            "search": query.text,
            "author": query.author,
            "filter": query.format.value,
            "sort": query.sort.value,
            "limit": query.limit,
            "cursor": query.cursor,
        }
        given = {name: value for name, value in parameters.items() if value}
        response = await self._get("/api/models", {**given, "expand": list(_EXPANDED)})
        if response.status_code in _ILLEGAL and query.cursor:
            raise InvalidArgument(
                "page_token must be next_page_token of an earlier response", field="page_token"
            )
        items = self._json(response, list)
        try:
            listings = [listing_of(ModelInfo(**item)) for item in items]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._nonsense(error) from error
        return Page(listings, _next_cursor(response))

    async def describe(self, repo_id: str, revision: str) -> Listing:
        """A model with its files. Raises: HubUnavailable, SourceNotFound."""
        path = f"/api/models/{repo_id}/revision/{revision}"
        response = await self._get(path, {"blobs": "true"})
        if response.status_code in _NOT_FOUND:
            raise SourceNotFound(_not_found(response, repo_id, revision), field="repo_id")
        item = self._json(response, dict)
        try:
            return listing_of(ModelInfo(**item))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._nonsense(error) from error

    async def _get(self, path: str, parameters: Mapping[str, Any]) -> httpx2.Response:
        if constants.HF_HUB_OFFLINE:
            raise HubUnavailable(
                "HF_HUB_OFFLINE is set, so hubs are not asked; unset it and restart the mesh"
            )
        token = get_token()
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            # The limit of time includes the wait for others.
            async with (
                asyncio.timeout(self._timeout_s),
                self._limit,
                httpx2.AsyncClient(follow_redirects=True, timeout=None) as client,
            ):
                return await client.get(
                    f"{self._endpoint}{path}", params=parameters, headers=headers
                )
        except (httpx2.HTTPError, OSError) as error:  # TimeoutError is an OSError
            raise self._unavailable(type(error).__name__) from error

    def _json(self, response: httpx2.Response, kind: type) -> Any:
        if response.status_code >= 300:
            raise self._unavailable(f"status {response.status_code}")
        try:
            content = response.json()
        except ValueError as error:
            raise self._nonsense(error) from error
        if not isinstance(content, kind):
            raise self._nonsense(TypeError(type(content).__name__))
        return content

    def _unavailable(self, why: str) -> HubUnavailable:
        _log.info("%s does not answer: %s", self._endpoint, why)
        return HubUnavailable(
            f"the hub at {self._endpoint} cannot be reached ({why}); check the network of the model"
            " service and [model] hub_endpoint, or register a directory"
        )

    def _nonsense(self, error: Exception) -> HubUnavailable:
        _log.warning("%s answers what cannot be read: %r", self._endpoint, error)
        return HubUnavailable(
            f"{self._endpoint} answers not like a hub of models; check [model] hub_endpoint"
        )


def _not_found(response: httpx2.Response, repo_id: str, revision: str) -> str:
    code = response.headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        return f"{repo_id} has no revision {revision}"
    if code == "GatedRepo":
        return f"{repo_id} is gated; accept its terms, set HF_TOKEN"
    return f"the hub has no model {repo_id}, or it is private and HF_TOKEN is not set"


def _next_cursor(response: httpx2.Response) -> str:
    url = response.links.get("next", {}).get("url", "")
    cursor = parse_qs(urlsplit(url).query).get("cursor", [""])[0]
    return cursor if len(cursor) <= MAX_CURSOR else ""
