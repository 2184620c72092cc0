"""Searches a hub, and says what of it is installed and what fits."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlxmesh_model.catalogue.lifecycle import ON_DISK
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.hub import fit
from mlxmesh_model.hub.listing import Listing, Page, Query
from mlxmesh_model.replicas.placement import Runtime

CACHED_S = 60.0
MAX_CACHED = 64
_RUNTIMES_CACHED_S = 2.0


class HubApi(Protocol):
    """What a hub tells of its models."""

    async def search(self, query: Query) -> Page:
        """A page of models. Raises: HubUnavailable. InvalidArgument for an illegal cursor."""
        ...

    async def describe(self, repo_id: str, revision: str) -> Listing:
        """A model with its files. Raises: HubUnavailable, SourceNotFound."""
        ...


class ApiOnDemand:
    """An API that is opened on first use, in a thread: its libraries are slow to import."""

    def __init__(self, open_api: Callable[[], HubApi]) -> None:
        self._open = open_api
        self._api: HubApi | None = None
        self._opening = asyncio.Lock()

    async def search(self, query: Query) -> Page:
        """A page of models; see the port."""
        return await (await self._opened()).search(query)

    async def describe(self, repo_id: str, revision: str) -> Listing:
        """A model with its files; see the port."""
        return await (await self._opened()).describe(repo_id, revision)

    async def _opened(self) -> HubApi:
        async with self._opening:
            if self._api is None:
                self._api = await asyncio.to_thread(self._open)
            return self._api


@dataclass(frozen=True, slots=True)
class Found:
    """A listing with what this mesh makes of it."""

    listing: Listing
    verdict: fit.Verdict
    choices: Sequence[fit.Choice] = ()
    installed: Version | None = None


class HubSearch:
    """Answers are kept for a minute: people type, and go back and forth."""

    def __init__(
        self,
        *,
        api: HubApi,
        catalogue: Store,
        observe: Callable[[], Awaitable[Sequence[Runtime]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._catalogue = catalogue
        self._observe = observe
        self._clock = clock
        self._cached = OrderedDict[object, tuple[float, Any]]()

    async def search(self, query: Query) -> tuple[list[Found], str]:
        """A page of models and the cursor of the next. Raises: HubUnavailable, InvalidArgument."""
        page = await self._kept(query, CACHED_S, lambda: self._api.search(query))
        runtimes, installed = await self._runtimes(), await self._installed()
        found = [
            Found(
                listing,
                fit.judged(listing, runtimes),
                installed=_newest(installed, listing.repo_id),
            )
            for listing in page.listings
        ]
        return found, page.cursor

    async def describe(self, repo_id: str, revision: str) -> Found:
        """A model with its files. Raises: HubUnavailable, SourceNotFound."""
        key = (repo_id, revision)
        listing = await self._kept(key, CACHED_S, lambda: self._api.describe(repo_id, revision))
        choices = fit.choices(listing, await self._runtimes())
        installed = _newest(await self._installed(), repo_id, listing.commit)
        return Found(listing, fit.best(choices, listing), choices, installed)

    async def _runtimes(self) -> Sequence[Runtime]:
        return await self._kept("runtimes", _RUNTIMES_CACHED_S, self._observe)

    async def _installed(self) -> list[Version]:
        return [
            version
            for model in await self._catalogue.models()
            for version in model.versions
            if version.state in ON_DISK and version.source.repo_id
        ]

    async def _kept(
        self, key: object, retention_s: float, ask: Callable[[], Awaitable[Any]]
    ) -> Any:
        """An answer that is young enough, or a new one; errors are not kept."""
        known = self._cached.get(key)
        if known is not None and self._clock() - known[0] < retention_s:
            return known[1]
        answer = await ask()
        self._cached[key] = (self._clock(), answer)
        self._cached.move_to_end(key)
        while len(self._cached) > MAX_CACHED:
            self._cached.popitem(last=False)
        return answer


def _newest(installed: Sequence[Version], repo_id: str, commit: str = "") -> Version | None:
    """The newest version that came from a repository, and a commit if one is given."""
    same = [
        version
        for version in installed
        if version.source.repo_id == repo_id and commit in ("", version.source.commit)
    ]
    return max(same, key=lambda version: version.created_at, default=None)
