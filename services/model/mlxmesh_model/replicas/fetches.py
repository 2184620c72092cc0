"""Which runtimes fetch the files of which version, as the reconciler saw it last."""

from collections.abc import Collection, Mapping

from mlxmesh_model.catalogue.models import Version
from mlxmesh_model.replicas.placement import Fetch, Runtime


class Fetches:
    """The reconciler records them and the servicer shows them."""

    def __init__(self) -> None:
        self._fetches: dict[str, dict[str, Fetch]] = {}

    def of(self, version: Version) -> Mapping[str, Fetch]:
        """The fetches of a version, by runtime id."""
        return self._fetches.get(version.label, {})

    def observe(self, versions: Collection[Version], runtimes: Mapping[str, Runtime]) -> None:
        """Records what all runtimes report."""
        found: dict[str, dict[str, Fetch]] = {}
        for version in versions:
            for replica in version.replicas:
                runtime = runtimes.get(replica.runtime_id)
                engine = (runtime.engines or {}).get(replica.engine_id) if runtime else None
                if engine is not None and engine.fetch is not None:
                    found.setdefault(version.label, {})[replica.runtime_id] = engine.fetch
        self._fetches = found
