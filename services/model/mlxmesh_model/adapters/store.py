"""Adapters in the catalogue: each belongs to a model."""

from functools import partial

from mlxmesh_model.catalogue import queries
from mlxmesh_model.catalogue.adapter import Adapter
from mlxmesh_model.catalogue.models import Model, ModelKind
from mlxmesh_model.catalogue.store import Store, check_alias_unnamed
from mlxmesh_shared.errors import (
    AdapterExists,
    FeatureNotSupported,
    IllegalState,
    ModelNotFound,
)
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


class Adapters:
    """Reads and changes the adapters of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def transactions(self) -> Transactions:
        """Those of the store."""
        return self._store.transactions

    @uncancellable
    async def check(self, model: str, name: str) -> Model:
        """The model that an adapter of this name may be added to.

        Raises: ModelNotFound. AdapterExists for an alias. FeatureNotSupported for a model without
        files here.
        """
        found = await self.transactions.read(partial(queries.find_model, name=model))
        return _checked(found, model, name)

    @uncancellable
    async def add(self, adapter: Adapter, *, replace: bool) -> Adapter:
        """Adds an adapter whose files are stored; the same content again changes nothing.

        Raises: as check(); AdapterExists for one with other content, unless it is replaced.
        """
        async with self._store.changing(adapter.model) as (session, found):
            model = _checked(found, adapter.model, adapter.name)
            known = model.adapters.get(adapter.name)
            if known is not None and known.digest == adapter.digest:
                return known
            if known is not None and not replace:
                raise AdapterExists(
                    f"{adapter.model} has another adapter {adapter.name}; choose another name, or"
                    " replace it",
                    field="name",
                )
            await queries.put_adapter(session, adapter)
        return adapter

    @uncancellable
    async def get(self, model: str, name: str) -> Adapter:
        """Raises: ModelNotFound, AdapterNotFound."""
        return (await self._store.model(model)).adapter(name)

    @uncancellable
    async def list(self, *, model: str, after: tuple[str, str], limit: int) -> list[Adapter]:
        """The adapters after one, by model and name; of one model, or of all without a name.

        Raises: ModelNotFound.
        """
        if model:
            await self._store.model(model)
        return await self.transactions.read(
            partial(queries.read_adapters, model=model, after=after, limit=limit)
        )

    @uncancellable
    async def remove(self, model: str, name: str) -> Adapter:
        """Removes an adapter and returns it.

        Raises: ModelNotFound, AdapterNotFound. IllegalState while an ensemble names it.
        """
        async with self._store.changing(model) as (session, found):
            if found is None:
                raise _no_model(model)
            adapter = found.adapter(name)
            await check_alias_unnamed(session, model, name)
            await queries.delete_adapter(session, model, name)
        return adapter


def _checked(model: Model | None, name: str, adapter: str) -> Model:
    if model is None:
        raise _no_model(name)
    if model.ensemble:
        raise IllegalState(
            f"{name} is an ensemble; add the adapter to one of its models, and name it in the"
            " recipe as model:adapter"
        )
    if adapter in model.aliases or adapter in model.splits or adapter == "default":
        raise AdapterExists(
            f"{name}:{adapter} is an alias; choose another name for the adapter", field="name"
        )
    version = model.version(model.default_version)
    if version.upstream is not None:
        raise FeatureNotSupported(
            f"model: {version.label} is an upstream, which takes no adapters", field="model"
        )
    if version.artifact is None:
        raise IllegalState(f"{version.label} is {version.state.upper()}; pull it first")
    if version.artifact.kind is not ModelKind.GENERATION:
        raise FeatureNotSupported(
            f"model: {version.label} is of the kind {version.artifact.kind.value}; only models that"
            " generate text take adapters",
            field="model",
        )
    return model


def _no_model(name: str) -> ModelNotFound:
    return ModelNotFound(f"there is no model {name}; list the models to see which", field="model")
