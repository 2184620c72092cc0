"""The models and versions that generation knows, and how a reference is resolved. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlxmesh_shared.errors import ModelNotFound
from mlxmesh_shared.reference import ModelReference


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

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Model:
    """A model; its bare name refers to `default_version`."""

    name: str
    versions: Mapping[int, ModelVersion]
    default_version: int
    aliases: Mapping[str, int] = field(default_factory=dict[str, int])


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

    def resolve(self, reference: ModelReference) -> ModelVersion:
        """Raises: ModelNotFound for an unknown name, version or alias."""
        model = self._models.get(reference.name)
        if model is None:
            raise ModelNotFound(
                f"there is no model {reference.name}; `mlxmesh models` lists those there are",
                field="model",
            )
        number = reference.version or model.default_version
        if reference.alias is not None:
            number = model.aliases.get(reference.alias, 0)
        version = model.versions.get(number)
        if version is None:
            raise ModelNotFound(f"there is no {reference} of this model", field="model")
        return version
