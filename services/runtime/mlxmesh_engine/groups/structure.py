"""Copies of a model that can be divided while the model itself remains whole."""

import copy
from typing import Any, TypeVar, cast

from mlx import nn

T = TypeVar("T")


def structure(value: T) -> T:
    """The same modules again, with the same arrays; nothing is evaluated."""
    if isinstance(value, nn.Module):
        copied = cast("Any", copy.copy(value))
        for name, each in cast("dict[str, Any]", value).items():
            cast("Any", dict).__setitem__(copied, name, structure(each))
        return copied
    if isinstance(value, list):
        return cast("T", [structure(each) for each in cast("list[Any]", value)])
    if isinstance(value, tuple):
        return cast("T", tuple(structure(each) for each in cast("tuple[Any, ...]", value)))
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return cast("T", {name: structure(each) for name, each in items})
    return value
