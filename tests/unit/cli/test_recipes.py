"""Recipes from options, and as they are shown."""

from io import StringIO
from typing import Any

import pytest

from mlxmesh.model.v1 import ensemble_pb2 as pb
from mlxmesh.model.v1.model_pb2 import Model, ModelVersion
from mlxmesh_cli.commands.recipes import RecipeOptions, recipe_of
from mlxmesh_cli.screen.ensembles import recipe_lines


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        (
            {"fallback": "big, small", "first_token_timeout_s": 0.5},
            {"fallback": {"models": ["big", "small"], "first_token_timeout_ms": 500}},
        ),
        (
            {"cascade": "a,b", "min_logprob": -0.5, "schema": "{}", "require_valid": False},
            {
                "cascade": {
                    "models": ["a", "b"],
                    "min_mean_logprob": -0.5,
                    "json_schema": "{}",
                    "require_valid": False,
                }
            },
        ),
        (
            {"vote": "a", "samples": 3, "pattern": "x", "description": "d"},
            {
                "vote": {"models": ["a"], "samples": 3, "answer_pattern": "x"},
                "description": "d",
            },
        ),
        (
            {"best_of": "a,b", "judge": "c"},
            {"best_of": {"models": ["a", "b"], "judge": "c"}},
        ),
    ],
)
def test_options_make_a_recipe(options: dict[str, Any], recipe: dict[str, Any]) -> None:
    made = recipe_of(RecipeOptions(**options))
    assert made == pb.EnsembleRecipe(**recipe)
    lines = list(recipe_lines(pb.Ensemble(name="chat", recipe=made)))
    assert lines[0].startswith("chat: ")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "give one of --fallback, --cascade, --vote, --best-of"),
        ({"fallback": "a", "vote": "b"}, "give one of"),
        ({"fallback": "a", "judge": "b"}, "--judge needs --best-of"),
        ({"cascade": "a,b", "samples": 2}, "--samples needs --vote or --best-of"),
        ({"vote": "a", "min_logprob": -1.0}, "--min-logprob needs --cascade"),
        ({"vote": "a", "first_token_timeout_s": 1.0}, "--first-token-timeout needs --fallback"),
        ({"best_of": "a,b"}, "--best-of needs --judge"),
    ],
)
def test_options_that_do_not_belong_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        recipe_of(RecipeOptions(**options))


def test_the_table_of_models_has_them() -> None:
    from rich.console import Console

    from mlxmesh_cli.screen.tables import models_table

    recipe = pb.EnsembleRecipe(fallback=pb.FallbackRecipe(models=["big", "small"]))
    console = Console(width=200, record=True, file=StringIO())
    model = Model(name="big", versions=[ModelVersion(version=1)])
    console.print(models_table([Model(name="chat", ensemble=recipe), model]))
    assert "fallback of big, small" in console.export_text()
