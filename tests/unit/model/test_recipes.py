"""Recipes of ensembles against a catalogue."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxmesh.model.v1 import ensemble_pb2 as pb
from mlxmesh_model.catalogue.lifecycle import State
from mlxmesh_model.catalogue.models import Model, Source, Version
from mlxmesh_model.catalogue.recipes import affects, references_of
from mlxmesh_model.convert import to_recipe
from mlxmesh_model.ensembles.convert import from_recipe, recipe_text
from mlxmesh_model.ensembles.recipe import Kind, Recipe, check_recipe
from mlxmesh_shared.errors import InvalidArgument
from mlxmesh_shared.reference import ModelReference

NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def model(name: str, **changes: object) -> Model:
    versions = tuple(Version(name, n, State.AVAILABLE, Source("/m"), NOW) for n in (1, 2))
    return replace(Model(name, versions, {"stable": 1}), **changes)


CATALOGUE = {
    "big": model("big"),
    "small": model("small"),
    "crowd": Model("crowd", (), ensemble='{"vote": {"models": ["big"], "samples": 2}}'),
}


def refused(recipe: Recipe) -> tuple[str, str]:
    with pytest.raises(InvalidArgument) as error:
        check_recipe(recipe, CATALOGUE)
    return error.value.field, error.value.message


def test_legal_recipes_pass() -> None:
    for kind in Kind:
        check_recipe(Recipe(kind=kind, models=("small", "big@2", "big:stable")), CATALOGUE)
    judged = Recipe(kind=Kind.BEST_OF, models=("small",), samples=16, judge="big")
    check_recipe(judged, CATALOGUE)
    schema = json.dumps({"type": "object", "properties": {"a": {"pattern": "^a+$"}}})
    check_recipe(Recipe(kind=Kind.CASCADE, models=("small",), json_schema=schema), CATALOGUE)


@pytest.mark.parametrize(
    ("models", "place", "says"),
    [
        (("big", "none"), 1, "there is no model none"),
        (("big", ""), 1, "must be written name"),
        (("crowd",), 0, "crowd is an ensemble"),
        (("big@3",), 0, "has no version 3"),
        (("big", "small:new"), 1, "has no alias new"),
    ],
)
def test_a_model_that_cannot_answer_is_named(
    models: tuple[str, ...], place: int, says: str
) -> None:
    field, message = refused(Recipe(kind=Kind.FALLBACK, models=models))
    assert field == f"recipe.fallback.models[{place}]"
    assert says in message


def test_a_judge_must_exist() -> None:
    field, _ = refused(Recipe(kind=Kind.BEST_OF, models=("big",), samples=2, judge="none"))
    assert field == "recipe.best_of.judge"


@given(st.integers(1, 8), st.integers(1, 16))
def test_models_times_samples_are_2_to_32(models: int, samples: int) -> None:
    recipe = Recipe(kind=Kind.VOTE, models=("big",) * models, samples=samples)
    if 2 <= models * samples <= 32:
        check_recipe(recipe, CATALOGUE)
    else:
        assert refused(recipe)[0] == "recipe.vote.samples"


@pytest.mark.parametrize("pattern", ["(", "(?=a)", r"(a)\1", "a{1001}", "[z-a]", "(?P<n>"])
def test_a_pattern_that_cannot_be_matched_in_linear_time_is_refused(pattern: str) -> None:
    field, message = refused(
        Recipe(kind=Kind.VOTE, models=("big", "small"), answer_pattern=pattern)
    )
    assert field == "recipe.vote.answer_pattern"
    assert "RE2" in message


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "1",
        "[]",
        '{"type": "nope"}',
        '{"$ref": "http://example.com/schema"}',
        '{"$ref": "file:///etc/passwd"}',
        '{"$ref": "#/$defs/none"}',
        '{"pattern": "(?=a)"}',
        '{"$schema": "http://example.com/draft"}',
        '{"items":' * 90_000 + "{}" + "}" * 90_000,
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused(schema: str) -> None:
    recipe = Recipe(kind=Kind.CASCADE, models=("small", "big"), json_schema=schema)
    field, message = refused(recipe)
    assert field == "recipe.cascade.json_schema"
    assert "example" not in message


def test_messages_say_where_a_schema_is_wrong_without_its_values() -> None:
    schema = '{"properties": {"a": {"minimum": "secret"}}}'
    _, message = refused(Recipe(kind=Kind.CASCADE, models=("small", "big"), json_schema=schema))
    assert "/properties/a/minimum" in message
    assert "secret" not in message
    recipe = Recipe(kind=Kind.VOTE, models=("big", "small"), answer_pattern="(secret")
    assert "secret" not in refused(recipe)[1]


def test_a_cascade_that_judges_nothing_is_refused() -> None:
    message = pb.EnsembleRecipe(cascade=pb.CascadeRecipe(models=["small", "big"]))
    check_recipe(from_recipe(message), CATALOGUE)
    message.cascade.require_valid = False
    assert refused(from_recipe(message))[0] == "recipe.cascade.require_valid"
    message.cascade.min_mean_logprob = 0
    check_recipe(from_recipe(message), CATALOGUE)


RECIPES = [
    pb.EnsembleRecipe(fallback=pb.FallbackRecipe(models=["big", "small:stable"])),
    pb.EnsembleRecipe(
        description='models "quoted" \u00e9',
        cascade=pb.CascadeRecipe(models=["small", "big"], min_mean_logprob=-0.5),
    ),
    pb.EnsembleRecipe(vote=pb.VoteRecipe(models=["small"], samples=3, answer_pattern="a")),
    pb.EnsembleRecipe(best_of=pb.BestOfRecipe(models=["small"], samples=2, judge="big@2")),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: str(one.WhichOneof("recipe")))
def test_what_is_stored_is_the_recipe(recipe: pb.EnsembleRecipe) -> None:
    stored = recipe_text(recipe)
    assert to_recipe(stored) == recipe
    named = [reference for _, reference in from_recipe(recipe).references]
    assert references_of(stored) == named
    check_recipe(from_recipe(recipe), CATALOGUE)


def test_a_reference_needs_its_version() -> None:
    big = CATALOGUE["big"]
    bare, pinned = ModelReference("big"), ModelReference("big", 2)
    alias, other = ModelReference("big", alias="stable"), ModelReference("small")
    assert [affects(each, big, None) for each in (bare, pinned, alias, other)] == [
        True,
        True,
        True,
        False,
    ]
    assert [affects(each, big, {1}) for each in (bare, pinned, alias)] == [False, False, True]
    assert [affects(each, big, {2}) for each in (bare, pinned, alias)] == [False, True, False]
