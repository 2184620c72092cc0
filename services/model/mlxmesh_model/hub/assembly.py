"""Builds the search of a hub and the downloads from it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mlxmesh_model.artifacts.pruning import Pruning
from mlxmesh_model.artifacts.pulls import Pulls
from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.hub.attempts import Attempts
from mlxmesh_model.hub.runner import DownloadRunner
from mlxmesh_model.hub.search import ApiOnDemand, HubApi, HubSearch
from mlxmesh_model.hub.servicer import HubServicer
from mlxmesh_model.hub.store import DownloadStore
from mlxmesh_model.replicas.runtimes import Runtimes
from mlxmesh_shared.reference import ModelReference


@dataclass(frozen=True, kw_only=True)
class HubParts:
    """The parts of a model service that are about a hub."""

    servicer: HubServicer
    downloads: DownloadStore
    runner: DownloadRunner
    """Runs in the leader."""


def make_hub(
    *,
    store: Store,
    pulls: Pulls,
    pruning: Pruning,
    runtimes: Runtimes,
    endpoint: str,
    wake_reconciler: Callable[[], None],
    pause_s: float = 1.0,
) -> HubParts:
    """Everything about a hub; `runtimes` are not those of the reconciler, which keeps count."""
    downloads = DownloadStore(store.transactions)
    attempts = Attempts(
        downloads=downloads,
        pulls=pulls,
        catalogue=store,
        load=partial(_load, store, wake_reconciler),
        pause_s=pause_s,
    )
    search = HubSearch(
        api=ApiOnDemand(partial(_open_api, endpoint)), catalogue=store, observe=runtimes.observe
    )
    return HubParts(
        servicer=HubServicer(search=search, downloads=downloads, catalogue=store),
        downloads=downloads,
        runner=DownloadRunner(
            downloads=downloads, attempts=attempts, catalogue=store, pruning=pruning
        ),
    )


def _open_api(endpoint: str) -> HubApi:
    # Not at the top: its libraries are slow to import and only a search needs them.
    from mlxmesh_model.hub.api import HuggingFaceApi

    return HuggingFaceApi(endpoint)


async def _load(store: Store, wake_reconciler: Callable[[], None], version: Version) -> None:
    """Has a version loaded, unless it is."""
    if not version.desired_replicas:
        reference = ModelReference(version.model, version=version.number)
        await store.set_desired_replicas(reference, replicas=1)
        wake_reconciler()
