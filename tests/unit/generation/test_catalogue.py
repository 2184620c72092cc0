import pytest

from mlxmesh_generation.domain.catalogue import Catalogue, CatalogueChange, Model, ModelVersion
from mlxmesh_shared.errors import ModelNotFound
from mlxmesh_shared.reference import ModelReference


def version(number: int) -> ModelVersion:
    return ModelVersion("pocket", number, "ab" * 32, 1024, 300, 1)


POCKET = Model(
    name="pocket",
    versions={1: version(1), 2: version(2)},
    default_version=2,
    aliases={"stable": 1, "broken": 7},
)


@pytest.fixture
def catalogue() -> Catalogue:
    catalogue = Catalogue()
    catalogue.apply(CatalogueChange(1, model=POCKET))
    return catalogue


@pytest.mark.parametrize(("text", "number"), [("pocket", 2), ("pocket@1", 1), ("pocket:stable", 1)])
def test_references(catalogue: Catalogue, text: str, number: int) -> None:
    assert catalogue.resolve(ModelReference.parse(text)) == version(number)


@pytest.mark.parametrize("text", ["other", "pocket@3", "pocket:canary", "pocket:broken"])
def test_what_is_not_there_is_named(catalogue: Catalogue, text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        catalogue.resolve(ModelReference.parse(text))
    assert text in str(caught.value)
    assert caught.value.field == "model"


@pytest.mark.parametrize(("text", "known"), [("pocket@3", "1, 2"), ("pocket:x", "broken, stable")])
def test_what_there_is_instead_is_told(catalogue: Catalogue, text: str, known: str) -> None:
    with pytest.raises(ModelNotFound, match=f"are: {known}$"):
        catalogue.resolve(ModelReference.parse(text))


def test_a_removed_model_is_gone(catalogue: Catalogue) -> None:
    catalogue.apply(CatalogueChange(2, removed_name="pocket"))
    with pytest.raises(ModelNotFound):
        catalogue.resolve(ModelReference("pocket"))


def test_a_change_replaces_the_model(catalogue: Catalogue) -> None:
    changed = Model("pocket", {3: version(3)}, default_version=3)
    catalogue.apply(CatalogueChange(2, model=changed))
    assert catalogue.resolve(ModelReference("pocket")).version == 3


def test_a_complete_listing_forgets_the_rest(catalogue: Catalogue) -> None:
    catalogue.keep_only({"other"})
    with pytest.raises(ModelNotFound):
        catalogue.resolve(ModelReference("pocket"))
