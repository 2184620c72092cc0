"""Which runtimes fetch the files of which version, as the reconciler saw it last."""

from collections.abc import Collection, Mapping

from mlxmesh_model.catalogue.models import Replica, Version
from mlxmesh_model.replicas.fetch_retries import FetchRetries
from mlxmesh_model.replicas.placement import Fetch, Runtime


class Fetches:
    """The reconciler records them and the servicer shows them."""

    def __init__(self, retries: FetchRetries | None = None) -> None:
        self._retries = retries or FetchRetries()
        self._fetches: dict[str, dict[str, Fetch]] = {}

    def of(self, version: Version) -> Mapping[str, Fetch]:
        """The fetches of a version, by runtime id."""
        return self._fetches.get(version.label, {})

    def retry_due(self, replicas: tuple[Replica, ...]) -> tuple[Replica, ...]:
        """The replicas, with those pending whose fetch failed and is due again."""
        return self._retries.apply(replicas)

    def observe(self, versions: Collection[Version], runtimes: Mapping[str, Runtime]) -> None:
        """Records what all runtimes report."""
        self._retries.retain({one.engine_id for each in versions for one in each.replicas})
        found: dict[str, dict[str, Fetch]] = {}
        for version in versions:
            for replica in version.replicas:
                runtime = runtimes.get(replica.runtime_id)
                engine = (runtime.engines or {}).get(replica.engine_id) if runtime else None
                if engine is not None and engine.fetch is not None:
                    found.setdefault(version.label, {})[replica.runtime_id] = engine.fetch
        self._fetches = found
