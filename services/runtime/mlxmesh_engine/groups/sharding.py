"""Divides a model among the ranks of a group, by mlx-lm's own methods.

Tensor parallel (`shard`): each rank has a part of every layer. Pipeline (`pipeline`): each rank has
some of the layers. Not every architecture of mlx-lm has one of them.
"""

from collections.abc import Mapping
from typing import Any, Literal, cast

from mlx import nn

from mlxmesh_engine.groups.ring import Ring
from mlxmesh_shared.errors import FeatureNotSupported, InvalidArgument

Sharding = Literal["auto", "tensor", "pipeline"]

_Counts = Mapping[tuple[int, str], int]
"""By the module's identity and the attribute's name."""


def can_shard(model: nn.Module) -> bool:
    """Whether mlx-lm can give each rank a part of every layer."""
    return hasattr(model, "shard")


def can_pipeline(model: nn.Module) -> bool:
    """Whether mlx-lm can give each rank some of the layers."""
    return hasattr(getattr(model, "model", None), "pipeline")


def divide(model: nn.Module, ring: Ring, sharding: Sharding) -> str:
    """Keeps this rank's part of the model; returns how it was divided: tensor or pipeline.

    Nothing is evaluated, so the parts of other ranks are never in memory.
    Raises: FeatureNotSupported, InvalidArgument.
    """
    ways = {"tensor": can_shard(model), "pipeline": can_pipeline(model)}
    wanted = [way for way in ways if sharding in ("auto", way)]
    way = next((way for way in wanted if ways[way]), None)
    if way is None:
        others = [way for way in ways if ways[way]]
        hint = f"; set group_sharding to {others[0]}" if others else ", so it needs one host"
        raise FeatureNotSupported(
            f"mlx-lm cannot divide this architecture ({' or '.join(wanted)}){hint}"
        )
    before, size = _counts(model), cast("int", ring.size())
    try:
        if way == "tensor":
            cast("Any", model).shard(ring)
        else:
            cast("Any", model).model.pipeline(ring)
    # A model may raise anything.
    except Exception as error:
        raise _indivisible(size, str(error)) from error
    if way == "tensor":
        _check_counts(before, _counts(model), size)
    return way


def _counts(model: nn.Module) -> _Counts:
    """Every number that a module has as an attribute: heads, for example."""
    modules = cast("list[tuple[str, Any]]", cast("Any", model).named_modules())
    return {
        (id(module), name): value
        for _, module in modules
        for name, value in cast("dict[str, object]", vars(module)).items()
        if isinstance(value, int) and not isinstance(value, bool)
    }


def _check_counts(before: _Counts, after: _Counts, size: int) -> None:
    """mlx-lm divides the number of heads without a check of the remainder."""
    for key, count in after.items():
        old = before.get(key, count)
        if count != old and count * size != old:
            raise _indivisible(size, f"{key[1]} is {old}")


def _indivisible(size: int, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"this model cannot be divided among {size} ranks: {why}; choose another group_size",
        field="group_size",
    )
