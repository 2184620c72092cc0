"""Loads versions that requests wait for."""

from collections.abc import Callable, Mapping

from mlxmesh_model.catalogue.models import Phase, Version
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.replicas.loader import raise_failure
from mlxmesh_model.replicas.policy_decisions import least_replicas
from mlxmesh_shared.errors import ModelNotLoaded


class Demand:
    """Sets the desired replicas of a version for a request; the reconciler does the rest."""

    def __init__(
        self,
        *,
        store: Store,
        wake_reconciler: Callable[[], None],
        note_use: Callable[[str, float], None],
        on_demand_default: bool,
    ) -> None:
        """`note_use` is told how long ago callers used a version, by its label;
        `on_demand_default` is for models whose policy does not say.
        """
        self._store = store
        self._note_use = note_use
        self._wake_reconciler = wake_reconciler
        self._on_demand_default = on_demand_default

    async def request(
        self, name: str, number: int, idle_s: Mapping[str, float] | None = None
    ) -> Version:
        """A version that is loaded or is being loaded; `idle_s` says how long ago the caller used
        others, by label.

        Raises: ModelNotFound. ModelNotLoaded when its policy forbids it. The cause of a load that
        has failed (InsufficientMemory, NoRuntime, EngineFailed, ModelRefused, those of files).
        IllegalState while it is not on disk.
        """
        for label, each_s in (idle_s or {}).items():
            self._note_use(label, each_s)
        model = await self._store.model(name, field="name")
        version = model.version(number, field="version")
        if version.desired_replicas == 0 and version.upstream is not None:
            raise ModelNotLoaded(
                f"the upstream {version.label} is switched off; run `mlxmesh load {version.label}`",
                field="model",
            )
        if version.desired_replicas == 0:
            if not model.policy.loads_on_demand(self._on_demand_default):
                raise ModelNotLoaded(
                    f"model {version.label} is registered but not loaded, and its policy does not"
                    f" load it on demand; run `mlxmesh load {version.label}`",
                    field="model",
                )
            replicas = max(1, least_replicas(model, version))
            version = await self._store.demand(version, replicas=replicas)
            self._wake_reconciler()
        on_their_way = [one for one in version.replicas if one.phase is not Phase.FAILED]
        if version.desired_replicas and not on_their_way and version.upstream is None:
            raise_failure(version)
        return version
