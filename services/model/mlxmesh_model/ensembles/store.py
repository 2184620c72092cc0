"""Ensembles in the catalogue: each is a model with a recipe and without versions."""

from functools import partial

from mlxmesh_model.catalogue import queries
from mlxmesh_model.catalogue.models import Model
from mlxmesh_model.catalogue.store import Store
from mlxmesh_model.ensembles.recipe import Recipe, check_recipe
from mlxmesh_shared.errors import ModelNotFound, NameInUse
from mlxmesh_shared.sql.database import Session
from mlxmesh_shared.sql.transactions import Transactions, uncancellable


class Ensembles:
    """Reads and changes the ensembles of a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def transactions(self) -> Transactions:
        """Those of the store."""
        return self._store.transactions

    @uncancellable
    async def set(self, name: str, recipe: Recipe, text: str) -> Model:
        """Creates or replaces an ensemble; text: the recipe as it is stored.

        Raises: NameInUse for the name of a model, InvalidArgument as check_recipe().
        """
        async with self._store.changing(name) as (session, model):
            if model is not None and not model.ensemble:
                raise NameInUse(
                    f"{name} is a model; choose another name, or delete the model", field="name"
                )
            check_recipe(recipe, await _models(session, recipe))
            await queries.put_ensemble(session, name, text)
        return await self.get(name)

    @uncancellable
    async def get(self, name: str) -> Model:
        """Raises: ModelNotFound."""
        found = await self.transactions.read(partial(queries.find_model, name=name))
        return _ensemble(found, name)

    @uncancellable
    async def list(self, *, after: str, limit: int) -> list[Model]:
        """The ensembles whose name sorts after `after`, ordered by name."""
        where: queries.Where = "name > $1 AND ensemble <> ''"
        return await self.transactions.read(
            lambda session: queries.read_models(session, where, after, limit=limit)
        )

    @uncancellable
    async def delete(self, name: str) -> None:
        """Raises: ModelNotFound."""
        async with self._store.changing(name) as (session, model):
            _ensemble(model, name)
            await queries.delete_model(session, name)


async def _models(session: Session, recipe: Recipe) -> dict[str, Model]:
    """The models that a recipe names, as far as there are any."""
    names = {reference.name for _, reference in recipe.references}
    found = [await queries.find_model(session, name) for name in sorted(names)]
    return {model.name: model for model in found if model is not None}


def _ensemble(model: Model | None, name: str) -> Model:
    if model is None or not model.ensemble:
        raise ModelNotFound(
            f"there is no ensemble {name}; `mlxmesh ensembles list` shows those there are",
            field="name",
        )
    return model
