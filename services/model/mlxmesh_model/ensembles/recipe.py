"""What a recipe may be, checked against the catalogue. Pure."""

import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mlxmesh_model.catalogue.models import Model
from mlxmesh_shared.errors import InvalidArgument, MeshError
from mlxmesh_shared.reference import ModelReference

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError

MIN_ANSWERS, MAX_ANSWERS = 2, 32


class Kind(StrEnum):
    """The recipes, by their fields in EnsembleRecipe."""

    FALLBACK = "fallback"
    CASCADE = "cascade"
    VOTE = "vote"
    BEST_OF = "best_of"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What is checked of a recipe; its other fields have only legal ranges."""

    kind: Kind
    models: tuple[str, ...]
    samples: int = 1
    judge: str = ""
    answer_pattern: str = ""
    json_schema: str = ""
    judges_answers: bool = True
    """Whether a cascade has anything to judge an answer by."""

    @property
    def references(self) -> Iterator[tuple[str, ModelReference]]:
        """Each model that it names, after the field that names it. Raises: InvalidArgument."""
        for place, model in enumerate(self.models):
            field = self.field(f"models[{place}]")
            yield field, _reference(field, model)
        if self.judge:
            yield self.field("judge"), _reference(self.field("judge"), self.judge)

    def field(self, name: str) -> str:
        """The path of one of its fields in SetEnsembleRequest."""
        return f"recipe.{self.kind.value}.{name}"


def _reference(field: str, text: str) -> ModelReference:
    try:
        return ModelReference.parse(text)
    except InvalidArgument as error:
        message = f"{field} must be written name, name@version or name:alias"
        raise InvalidArgument(message, field=field) from error


def check_recipe(recipe: Recipe, models: Mapping[str, Model]) -> None:
    """Checks all but the legal ranges of single fields; models: those that it names, by name.

    Raises: InvalidArgument with the field.
    """
    _check_answers(recipe)
    if not recipe.judges_answers:
        raise InvalidArgument(
            f"{recipe.field('require_valid')}: with it off, no min_mean_logprob and no json_schema,"
            " nothing would ever reach the second model; set one of them",
            field=recipe.field("require_valid"),
        )
    check_pattern(recipe.answer_pattern, recipe.field("answer_pattern"))
    check_schema(recipe.json_schema, recipe.field("json_schema"))
    for field, reference in recipe.references:
        _check_reference(field, reference, models.get(reference.name))


def _check_answers(recipe: Recipe) -> None:
    if recipe.kind not in (Kind.VOTE, Kind.BEST_OF):
        return
    answers = len(recipe.models) * recipe.samples
    if not MIN_ANSWERS <= answers <= MAX_ANSWERS:
        field = recipe.field("samples")
        raise InvalidArgument(
            f"{field}: models times samples must be {MIN_ANSWERS} to {MAX_ANSWERS} answers, "
            f"not {len(recipe.models)} x {recipe.samples} = {answers}",
            field=field,
        )


def _check_reference(field: str, reference: ModelReference, model: Model | None) -> None:
    if model is None:
        raise InvalidArgument(f"{field}: there is no model {reference.name}", field=field)
    if model.ensemble:
        raise InvalidArgument(
            f"{field}: {reference.name} is an ensemble; a recipe can only name models", field=field
        )
    try:
        model.resolve(reference)
    except MeshError as error:
        raise InvalidArgument(f"{field}: {error.message}", field=field) from error


def check_pattern(pattern: str, field: str) -> None:
    """Raises: InvalidArgument for one that RE2 cannot compile."""
    re2: Any = importlib.import_module("re2")  # it has no types
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        why: bytes | str = error.args[0]
        text = why.decode(errors="replace") if isinstance(why, bytes) else why
        # What follows the colon is a part of the pattern.
        raise InvalidArgument(
            f"{field} is not a regular expression in RE2's syntax: {text.partition(':')[0]}",
            field=field,
        ) from error


def check_schema(text: str, field: str) -> None:
    """Raises: InvalidArgument for one that is no JSON Schema, or refers to another document."""
    if not text:
        return
    # Not at the top: it takes 40 ms to import, and most meshes have no ensembles.
    import jsonschema_rs

    try:
        schema: Any = json.loads(text)
        jsonschema_rs.validator_for(
            schema, pattern_options=jsonschema_rs.RegexOptions(), retriever=_refuse_document
        )
    except RecursionError as error:
        raise InvalidArgument(f"{field} is nested too deeply", field=field) from error
    except jsonschema_rs.ValidationError as error:
        raise InvalidArgument(f"{field} {_why_no_schema(error)}", field=field) from error
    except (ValueError, TypeError) as error:
        raise InvalidArgument(f"{field} is no JSON: {error}", field=field) from error


def _why_no_schema(error: "ValidationError") -> str:
    """What is wrong and where, without the schema's own values."""
    if type(error.kind).__name__ == "Referencing":
        return "refers to something that is not in it; a schema must be one document"
    place = "/".join(["", *map(str, error.instance_path)])
    if place.endswith("/pattern"):
        return f"has a pattern at {place} that is not in the syntax of Rust's regex crate"
    return f"is no JSON Schema: the value at {place or '/'} is not allowed there"


def _refuse_document(uri: str) -> Any:
    raise ValueError(f"it refers to {uri}; a schema must be one document")
