"""Ensembles as a table and as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlxmesh_cli.screen.grid import Column, Grid

if TYPE_CHECKING:
    from mlxmesh.model.v1.ensemble_pb2 import Ensemble, EnsembleRecipe


def ensembles_table(ensembles: Sequence[Ensemble]) -> Grid:
    """One row per ensemble."""
    table = Grid(
        Column("ensemble"),
        Column("recipe"),
        Column("models"),
        Column("conditions", drop=1),
        Column("description", drop=2),
    )
    for each in ensembles:
        recipe = each.recipe
        conditions = ", ".join(_conditions(recipe))
        table.add(each.name, kind_of(recipe), models_of(recipe), conditions, recipe.description)
    return table


def recipe_lines(ensemble: Ensemble) -> Iterator[str]:
    """A recipe, one fact on each line."""
    recipe = ensemble.recipe
    yield f"{ensemble.name}: {kind_of(recipe)} of {models_of(recipe)}"
    if recipe.description:
        yield recipe.description
    yield from _conditions(recipe)
    if recipe.cascade.json_schema:
        yield recipe.cascade.json_schema


def kind_of(recipe: EnsembleRecipe) -> str:
    """The recipe in words."""
    return (recipe.WhichOneof("recipe") or "unknown").replace("_", " ")


def models_of(recipe: EnsembleRecipe) -> str:
    """Its models in their order."""
    kind = recipe.WhichOneof("recipe")
    return ", ".join(getattr(recipe, kind).models) if kind else ""


def _conditions(recipe: EnsembleRecipe) -> Iterator[str]:
    fallback, cascade, vote, best = recipe.fallback, recipe.cascade, recipe.vote, recipe.best_of
    if fallback.first_token_timeout_ms:
        yield f"first token within {fallback.first_token_timeout_ms / 1000:g} s"
    if cascade.HasField("min_mean_logprob"):
        yield f"mean log-probability at least {cascade.min_mean_logprob:g}"
    if cascade.json_schema:
        yield "satisfies a JSON Schema"
    if cascade.HasField("require_valid") and not cascade.require_valid:
        yield "need not be valid"
    for several in (vote, best):
        if several.samples > 1:
            yield f"{several.samples} samples each"
    if vote.answer_pattern:
        yield f"compared by {vote.answer_pattern}"
    if best.judge:
        yield f"judged by {best.judge}"
