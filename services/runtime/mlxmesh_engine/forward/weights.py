"""The arrays of a model: finds them, checks and describes them, and converts their dtype."""

from collections.abc import Iterator
from typing import Any, cast

import mlx.core as mx
import mlx.utils
import mlx_lm.utils
from mlx import nn

from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.dtype_policy import DtypeChoice, Weights

_DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
# As integers, infinity and NaN are above all finite numbers of their sign, so two maxima are an
# exact test. isfinite allocates an array and takes four to ten times as long.
_AS_INTEGERS = {
    mx.float32: (mx.int32, 0x7F800000, mx.uint32, 0xFF800000),
    mx.float16: (mx.int16, 0x7C00, mx.uint16, 0xFC00),
    mx.bfloat16: (mx.int16, 0x7F80, mx.uint16, 0xFF80),
}
_flatten = cast("Any", mlx.utils.tree_flatten)  # pyright: ignore[reportUnknownMemberType]


def every_array(tree: Any) -> Iterator[mx.array]:
    """Every array of a module, including those under underscore names (rope frequencies)."""
    if isinstance(tree, mx.array):
        yield tree
    elif isinstance(tree, nn.Module):
        yield from every_array(dict(cast("Any", tree)))
        yield from every_array(vars(tree))
    elif isinstance(tree, dict):
        for value in cast("dict[Any, Any]", tree).values():
            yield from every_array(value)
    elif isinstance(tree, list | tuple):
        for value in cast("list[Any]", tree):
            yield from every_array(value)


def parameters(model: nn.Module) -> list[tuple[str, mx.array]]:
    """Name and array of every parameter."""
    return _flatten(model.parameters())


def first_not_finite(model: nn.Module) -> str:
    """The name of a parameter that holds an infinity or NaN; empty if there is none."""
    names: list[str] = []
    found: list[mx.array] = []
    for name, array in parameters(model):
        if array.size and array.dtype in _AS_INTEGERS:
            signed, infinity, unsigned, minus_infinity = _AS_INTEGERS[array.dtype]
            names.append(name)
            found.append(
                (mx.max(array.view(signed)) >= infinity)
                | (mx.max(array.view(unsigned)) >= minus_infinity)
            )
    evaluate(found)
    return next((name for name, bad in zip(names, found, strict=True) if bad.item()), "")


def shipped_weights(model: nn.Module) -> Weights:
    """Describes the weights in the files; evaluates nothing."""
    floats = [array for _, array in parameters(model) if mx.issubdtype(array.dtype, mx.floating)]
    packed = _packed_modules(model)
    sizes: dict[str, int] = {}
    for array in floats:
        name = str(array.dtype).removeprefix("mlx.core.")
        sizes[name] = sizes.get(name, 0) + array.size
    return Weights(
        dtype=max(sizes, key=lambda name: sizes[name], default="float32"),
        quantized_bits=min((module.bits for module in packed), default=0),
        values=sum(array.size for array in floats) + sum(_unpacked(module) for module in packed),
    )


def convert_weights(model: nn.Module, choice: DtypeChoice) -> nn.Module:
    """The model with its weights as chosen; the arrays are not evaluated yet."""
    if not choice.convert:
        return model
    dtype = _DTYPES[choice.dtype]
    # Scales first: unpacking with narrow scales would round the weights once more.
    model.set_dtype(dtype)
    if not choice.unpack:
        return model
    model = mlx_lm.utils.dequantize_model(model)
    model.set_dtype(dtype)
    return model


def _packed_modules(model: nn.Module) -> list[Any]:
    modules = cast("list[tuple[str, Any]]", cast("Any", model).named_modules())
    return [module for _, module in modules if "scales" in module and hasattr(module, "bits")]


def _unpacked(module: Any) -> int:
    """The values of a packed module when unpacked, minus its scales and biases."""
    floats = [module[name] for name in ("scales", "biases") if name in module]
    counted = sum(
        array.size
        for array in floats
        if array is not None and mx.issubdtype(array.dtype, mx.floating)
    )
    return int(module["weight"].size) * 32 // int(module.bits) - counted
