"""Finds the modules of an adapter among those of a model. Pure.

Converters rename what is around the layers (`model.layers.0.` is `language_model.model.layers.0.`
in a model with a vision tower), so a path that the model lacks is compared from its layer on.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from mlxmesh_shared.errors import AdapterInvalid

Shapes = Mapping[str, tuple[int, int]]
"""(outputs, inputs) of linear modules by their path."""


def fit_paths(paths: Iterable[str], shapes: Shapes) -> dict[str, str]:
    """The path of the model's module for each path of an adapter.

    Raises: AdapterInvalid names a module that the model lacks.
    """
    by_layer: defaultdict[str, list[str]] = defaultdict(list)
    for known in shapes:
        if (place := from_layer(known)) is not None:
            by_layer[place].append(known)
    fitted: dict[str, str] = {}
    for path in paths:
        place = from_layer(path)
        if place is None:
            raise AdapterInvalid(f"{path}: only modules of the layers can have adapters")
        found = [path] if path in shapes else by_layer.get(place, [])
        if len(found) != 1:
            raise AdapterInvalid(f"{path}: the model has no such module that can have an adapter")
        fitted[path] = found[0]
    if len(set(fitted.values())) < len(fitted):
        raise AdapterInvalid("two of its modules are the same module of the model")
    return fitted


def from_layer(path: str) -> str | None:
    """The path from the layer's number on, as 0.self_attn.q_proj; None outside of the layers."""
    parts = path.split(".")
    at = next((at for at, part in enumerate(parts) if part.isdecimal()), None)
    return None if at is None or at == len(parts) - 1 else ".".join(parts[at:])


def name_in_layer(path: str) -> str:
    """The module's name within its layer, as self_attn.q_proj."""
    place = from_layer(path)
    return path if place is None else place.partition(".")[2]
