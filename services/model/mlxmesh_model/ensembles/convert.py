"""Converts recipes to messages and to their stored form, and back."""

from google.protobuf import json_format

from mlxmesh.model.v1 import ensemble_pb2 as pb
from mlxmesh_model.catalogue.models import Model
from mlxmesh_model.convert import to_recipe
from mlxmesh_model.ensembles.recipe import Kind, Recipe


def from_recipe(message: pb.EnsembleRecipe) -> Recipe:
    """What is to be checked of a recipe."""
    name = message.WhichOneof("recipe")
    if name == "fallback":
        return Recipe(kind=Kind.FALLBACK, models=tuple(message.fallback.models))
    if name == "cascade":
        cascade = message.cascade
        valid = cascade.require_valid or not cascade.HasField("require_valid")
        return Recipe(
            kind=Kind.CASCADE,
            models=tuple(cascade.models),
            json_schema=cascade.json_schema,
            judges_answers=valid
            or cascade.HasField("min_mean_logprob")
            or bool(cascade.json_schema),
        )
    if name == "vote":
        return Recipe(
            kind=Kind.VOTE,
            models=tuple(message.vote.models),
            samples=message.vote.samples or 1,
            answer_pattern=message.vote.answer_pattern,
        )
    best = message.best_of
    return Recipe(
        kind=Kind.BEST_OF,
        models=tuple(best.models),
        samples=best.samples or 1,
        judge=best.judge,
    )


def recipe_text(message: pb.EnsembleRecipe) -> str:
    """A recipe as it is stored: JSON."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


def to_ensemble(model: Model) -> pb.Ensemble:
    """An ensemble of the catalogue."""
    return pb.Ensemble(name=model.name, recipe=to_recipe(model.ensemble))
