"""Recipes of ensembles from the options of the command."""

from dataclasses import dataclass

from mlxmesh.model.v1.ensemble_pb2 import (
    BestOfRecipe,
    CascadeRecipe,
    EnsembleRecipe,
    FallbackRecipe,
    VoteRecipe,
)

_RECIPES = ("fallback", "cascade", "vote", "best_of")
_BELONGS_TO = {
    "first_token_timeout_s": ("fallback",),
    "min_logprob": ("cascade",),
    "schema": ("cascade",),
    "require_valid": ("cascade",),
    "pattern": ("vote",),
    "judge": ("best_of",),
    "samples": ("vote", "best_of"),
}
_OPTIONS = {"first_token_timeout_s": "--first-token-timeout"}


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """What was given; None for what was not."""

    fallback: str | None = None
    cascade: str | None = None
    vote: str | None = None
    best_of: str | None = None
    first_token_timeout_s: float | None = None
    min_logprob: float | None = None
    schema: str | None = None
    require_valid: bool | None = None
    pattern: str | None = None
    judge: str | None = None
    samples: int | None = None
    description: str = ""


def recipe_of(given: RecipeOptions) -> EnsembleRecipe:
    """Raises: ValueError for options that do not belong together, which says what to do."""
    kinds = [kind for kind in _RECIPES if getattr(given, kind) is not None]
    if len(kinds) != 1:
        raise ValueError(f"give one of {', '.join(map(_option, _RECIPES))}")
    [kind] = kinds
    for field, owners in _BELONGS_TO.items():
        if getattr(given, field) is not None and kind not in owners:
            raise ValueError(f"{_option(field)} needs {' or '.join(map(_option, owners))}")
    recipe = EnsembleRecipe(description=given.description)
    _fill(recipe, kind, [model.strip() for model in getattr(given, kind).split(",")], given)
    return recipe


def _fill(recipe: EnsembleRecipe, kind: str, models: list[str], given: RecipeOptions) -> None:
    if kind == "fallback":
        timeout_ms = round((given.first_token_timeout_s or 0) * 1000)
        fallback = FallbackRecipe(models=models, first_token_timeout_ms=timeout_ms)
        recipe.fallback.CopyFrom(fallback)
    elif kind == "cascade":
        cascade = CascadeRecipe(
            models=models,
            min_mean_logprob=given.min_logprob,
            require_valid=given.require_valid,
            json_schema=given.schema or "",
        )
        recipe.cascade.CopyFrom(cascade)
    elif kind == "vote":
        pattern = given.pattern or ""
        vote = VoteRecipe(models=models, samples=given.samples, answer_pattern=pattern)
        recipe.vote.CopyFrom(vote)
    elif given.judge is None:
        raise ValueError("--best-of needs --judge")
    else:
        best = BestOfRecipe(models=models, samples=given.samples, judge=given.judge)
        recipe.best_of.CopyFrom(best)


def _option(field: str) -> str:
    return _OPTIONS.get(field, "--" + field.replace("_", "-"))
