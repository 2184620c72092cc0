"""Which models the stored recipes of ensembles need. Pure."""

import json
from typing import Any

from mlxmesh_model.catalogue.models import Model
from mlxmesh_shared.reference import ModelReference


def references_of(stored: str) -> list[ModelReference]:
    """The models that a stored recipe names."""
    fields: dict[str, Any] = json.loads(stored)
    named: list[str] = []
    for kind in fields.keys() - {"description"}:
        recipe: dict[str, Any] = fields[kind]
        named += [*recipe["models"], *([recipe["judge"]] if "judge" in recipe else [])]
    return [ModelReference.parse(each) for each in named]


def affects(reference: ModelReference, model: Model, versions: set[int] | None) -> bool:
    """Whether a reference would mean nothing without these versions of a model; None for all."""
    if reference.name != model.name:
        return False
    if versions is None:
        return True
    number = reference.version or model.aliases.get(reference.alias or "", 0)
    return number in versions
