"""The models and versions that generation knows, and how a reference is resolved. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from mlxmesh_generation.domain.adapter import Adapter
from mlxmesh_generation.domain.ensemble import Recipe
from mlxmesh_generation.domain.routing import (
    UNASSIGNED,
    Asker,
    Assignment,
    Price,
    Shadow,
    Split,
    assign,
)
from mlxmesh_generation.domain.upstream import Upstream
from mlxmesh_shared.errors import (
    AdapterNotFound,
    FeatureNotSupported,
    InvalidArgument,
    MeshError,
    ModelNotFound,
)
from mlxmesh_shared.reference import ModelReference

DEFAULT_ALIAS = "default"


class ModelKind(Enum):
    """What a version serves."""

    GENERATION = "generation"
    EMBEDDING = "embedding"
    RERANK = "rerank"
    VISION = "vision"


@dataclass(frozen=True)
class ModelVersion:
    """One version; without a digest while it is still being pulled."""

    name: str
    version: int
    digest: str
    context_tokens: int
    vocab_size: int
    desired_replicas: int
    tool_format: str = ""
    """As set for it; empty when its chat template decides."""
    reasoning_format: str = ""
    """As set for it; empty when its chat template decides."""
    profile: str = ""
    """NAME@REVISION of its profile, whose chat template replaces its own; empty for none."""
    upstream: Upstream | None = None
    """The server that answers for it; None if engines run it."""
    unhealthy: MeshError | None = None
    """What the last health check of its upstream found; None if it was well."""
    kind: ModelKind | None = None
    """None where the catalogue does not say."""
    dimensions: int = 0
    """The length of its vectors; 0 unless it is known and makes some."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


LOAD_TIMEOUT_S = 300.0
"""How long a request waits for a load where a model's policy does not say."""


@dataclass(frozen=True)
class Loading:
    """Whether requests wait until a model is loaded, and for how long."""

    on_demand: bool = True
    timeout_s: float = LOAD_TIMEOUT_S


@dataclass(frozen=True)
class Model:
    """A model; its bare name refers to the alias `default`, else to `default_version`."""

    name: str
    versions: Mapping[int, ModelVersion]
    default_version: int
    aliases: Mapping[str, int] = field(default_factory=dict[str, int])
    splits: Mapping[str, Split] = field(default_factory=dict[str, Split])
    """By alias."""
    shadows: tuple[Shadow, ...] = ()
    load_on_demand: bool | None = None
    """None where the default of the mesh applies."""
    load_timeout_s: float | None = None
    price: Price | None = None
    ensemble: Recipe | None = None
    """The recipe of an ensemble, which has no versions; None for a model."""
    adapters: Mapping[str, Adapter] = field(default_factory=dict[str, Adapter])
    """By name."""

    def names_adapter(self, reference: ModelReference) -> bool:
        """Whether a reference to this model has an adapter in the place of an alias."""
        return reference.alias not in self.aliases and reference.alias in self.adapters

    def adapter(self, name: str) -> Adapter:
        """Raises: AdapterNotFound."""
        if name not in self.adapters:
            known = ", ".join(sorted(self.adapters)) or "none"
            raise AdapterNotFound(
                f"adapter: {self.name} has no adapter {name}; it has {known}", field="adapter"
            )
        return self.adapters[name]

    @property
    def loading(self) -> Loading:
        """Where the policy does not say, the model service is asked, which knows the default."""
        return Loading(
            on_demand=self.load_on_demand is not False,
            timeout_s=LOAD_TIMEOUT_S if self.load_timeout_s is None else self.load_timeout_s,
        )


@dataclass(frozen=True)
class Route:
    """The version that answers a request, and why."""

    version: ModelVersion
    assignment: Assignment = UNASSIGNED
    shadows: tuple[Shadow, ...] = ()
    """Those that may repeat it."""
    price: Price | None = None
    loading: Loading = Loading()
    adapter: Adapter | None = None


@dataclass(frozen=True)
class CatalogueChange:
    """What the model service reports: at most one of a changed model and a removed name is set."""

    sequence: int
    model: Model | None = None
    removed_name: str | None = None
    synced: bool = False


class Catalogue:
    """Every model by name."""

    def __init__(self) -> None:
        self._models: dict[str, Model] = {}

    def apply(self, change: CatalogueChange) -> None:
        if change.model is not None:
            self._models[change.model.name] = change.model
        if change.removed_name is not None:
            self._models.pop(change.removed_name, None)

    def keep_only(self, names: set[str]) -> None:
        """Removes the models that a complete listing did not contain."""
        self._models = {name: model for name, model in self._models.items() if name in names}

    def route(self, reference: ModelReference, asker: Asker, adapter: str = "") -> Route:
        """The version for a request: that of its arm if its alias is split; and its adapter, which
        the reference or `adapter` names.

        Raises: ModelNotFound, as resolve(). AdapterNotFound; FeatureNotSupported for the adapter of
        an upstream; InvalidArgument for two adapters.
        """
        model = self.model(reference.name)
        if model.names_adapter(reference):
            reference, adapter = _apart(reference, adapter)
        version, assignment = self.resolve(reference), UNASSIGNED
        split = None if reference.version else model.splits.get(reference.alias or DEFAULT_ALIAS)
        if split is not None and (assigned := assign(split, asker)):
            arm, assignment = assigned
            version = model.versions.get(arm.version, version)
        shadows = tuple(one for one in model.shadows if one.repeats(version.version))
        if adapter and version.upstream is not None:
            raise FeatureNotSupported(
                f"adapter: {version} is an upstream, which takes no adapters; leave it out",
                field="adapter",
            )
        chosen = model.adapter(adapter) if adapter else None
        return Route(version, assignment, shadows, model.price, model.loading, chosen)

    def model(self, name: str) -> Model:
        """Raises: ModelNotFound."""
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(
                f"there is no model {name}; `mlxmesh models` lists those there are",
                field="model",
            )
        return model

    def recipe(self, reference: ModelReference) -> Recipe | None:
        """The recipe of an ensemble; None for a model.

        Raises: ModelNotFound for an unknown name, and for a version or an alias of an ensemble.
        """
        recipe = self.model(reference.name).ensemble
        if recipe is not None and reference != ModelReference(reference.name):
            raise ModelNotFound(
                f"{reference.name} is an ensemble, which has no versions and no aliases; leave out "
                "what follows its name",
                field="model",
            )
        return recipe

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """The version without regard to splits; for an ensemble, that of its first model; for an
        adapter, the default one.

        Raises: ModelNotFound for an unknown name, version or alias.
        """
        recipe = self.recipe(reference)
        if recipe is not None:
            reference = recipe.models[0]
        model = self.model(reference.name)
        number = reference.version or model.default_version
        if reference.alias is not None and not model.names_adapter(reference):
            number = model.aliases.get(reference.alias, 0)
        version = model.versions.get(number)
        if version is None:
            raise ModelNotFound(_no_version(reference, model), field="model")
        return version


def _apart(reference: ModelReference, adapter: str) -> tuple[ModelReference, str]:
    """The model and the adapter of `model:adapter`. Raises: InvalidArgument for a second one."""
    named = reference.alias or ""
    if adapter and adapter != named:
        raise InvalidArgument(
            f"adapter: the model {reference} names another adapter; leave one of them out",
            field="adapter",
        )
    return ModelReference(reference.name), named


def _no_version(reference: ModelReference, model: Model) -> str:
    if reference.alias is None:
        known = ", ".join(map(str, sorted(model.versions))) or "none"
        return f"there is no {reference}; the versions of this model are: {known}"
    known = ", ".join(sorted([*model.aliases, *model.adapters])) or "none"
    return f"there is no {reference}; the aliases and adapters of this model are: {known}"
