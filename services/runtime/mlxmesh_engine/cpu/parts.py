"""Finds the modules of a model that a `Decoder` is made of, and checks that nothing else is there.

Looks only: nothing is evaluated or changed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import mlx.core as mx
import mlx.utils
from mlx import nn

from mlxmesh_engine.cpu import rotations
from mlxmesh_engine.cpu.family import ExpertsNames, Family
from mlxmesh_engine.cpu.family_table import FAMILIES, TEXT_MODEL, WRAPPERS
from mlxmesh_engine.cpu.weights import HeadShape, kind_of

_PACKAGE, _MODEL = "mlx_lm.models.", ".Model"
_SWITCH_LINEAR = "mlx_lm.models.switch_layers.SwitchLinear"
_SWIGLU = "mlx_lm.models.switch_layers.SwiGLU"
_flatten = cast("Any", mlx.utils.tree_flatten)  # pyright: ignore[reportUnknownMemberType]


@dataclass(frozen=True, slots=True)
class UnitParts:
    gated: tuple[Any, ...]
    down: Any


@dataclass(frozen=True, slots=True)
class ExpertsParts:
    router: Any
    units: UnitParts
    """Of `SwitchLinear`s."""
    activation: Any
    per_token: int
    normalize: bool
    shared: UnitParts | None
    shared_gate: Any | None


@dataclass(frozen=True, slots=True)
class LayerParts:
    layer: Any
    attention: Any
    inputs: tuple[Any, ...]
    output: Any
    rope: Any | None
    query_norm: Any | None
    key_norm: Any | None
    attention_norm: Any | None
    attention_output_norm: Any | None
    unit: UnitParts | ExpertsParts
    unit_norm: Any | None
    unit_output_norm: Any | None
    shape: HeadShape
    window: int | None


@dataclass(frozen=True, slots=True)
class ModelParts:
    family: Family
    model: Any
    embedding: Any
    layers: tuple[LayerParts, ...]
    final_norm: Any
    head: Any | None


def find_parts(model: Any) -> ModelParts:
    """Raises: LookupError or AttributeError if the model is not built as its family is."""
    model = _text_model(model)
    family = FAMILIES[_module_name(model)]
    inner = getattr(model, family.inner)
    layers = enumerate(getattr(inner, family.layers))
    return ModelParts(
        family=family,
        model=model,
        embedding=_at(inner, family.embedding),
        layers=tuple(_layer_parts(family, model, inner, layer, index) for index, layer in layers),
        final_norm=_at(inner, family.final_norm),
        head=model.get(family.head),
    )


def is_complete(parts: ModelParts, model: nn.Module) -> bool:
    """Whether these parts are all that the model consists of, and all are understood."""
    arrays: list[tuple[str, mx.array]] = _flatten(model.parameters())
    known = {id(array) for module in _modules(parts) for array in module.parameters().values()}
    return (
        all(id(array) in known and array.dtype == mx.float32 for _, array in arrays)
        and all(type(each) is nn.Linear for each in _linears(parts))
        and all(_is_norm(each, parts) for each in _norms(parts))
        and type(parts.embedding) is nn.Embedding
        and all(_is_understood(layer) for layer in parts.layers)
    )


def _text_model(model: Any) -> Any:
    return model[TEXT_MODEL] if _module_name(model) in WRAPPERS else model


def _module_name(model: Any) -> str:
    """Its name in mlx_lm.models; empty for a model of another package."""
    kind = kind_of(model)
    is_model = kind.startswith(_PACKAGE) and kind.endswith(_MODEL)
    return kind.removeprefix(_PACKAGE).removesuffix(_MODEL) if is_model else ""


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _if_named(module: Any, name: str | None) -> Any | None:
    """The part, if the family has one; norms of queries and keys may be absent from a model."""
    return None if name is None else module.get(name)


def _layer_parts(family: Family, model: Any, inner: Any, layer: Any, index: int) -> LayerParts:
    attention, names = _at(layer, family.attention), family.attention_names
    output = _at(attention, names.output)
    return LayerParts(
        layer=layer,
        attention=attention,
        inputs=tuple(_at(attention, name) for name in names.inputs),
        output=output,
        rope=attention.get(names.rope),
        query_norm=_if_named(attention, names.query_norm),
        key_norm=_if_named(attention, names.key_norm),
        attention_norm=_required(layer, family.attention_norm),
        attention_output_norm=_required(layer, family.attention_output_norm),
        unit=_unit_parts(family, _at(layer, family.unit)),
        unit_norm=_required(layer, family.unit_norm),
        unit_output_norm=_required(layer, family.unit_output_norm),
        shape=_head_shape(model.args, output),
        window=family.window(inner, layer, index),
    )


def _required(module: Any, name: str | None) -> Any | None:
    return None if name is None else module[name]


def _head_shape(args: Any, output: Any) -> HeadShape:
    queries = int(args.num_attention_heads)
    return HeadShape(queries, int(args.num_key_value_heads), output.weight.shape[1] // queries)


def _unit_parts(family: Family, unit: Any) -> UnitParts | ExpertsParts:
    names = family.experts_names
    if names is not None and names.units in unit:
        return _experts_parts(family, names, unit)
    return _gated_parts(family, unit)


def _gated_parts(family: Family, unit: Any) -> UnitParts:
    names = family.unit_names
    return UnitParts(tuple(_at(unit, name) for name in names.gated), _at(unit, names.down))


def _experts_parts(family: Family, names: ExpertsNames, unit: Any) -> ExpertsParts:
    units = unit[names.units]
    return ExpertsParts(
        router=_at(unit, names.router),
        units=UnitParts((units.gate_proj, units.up_proj), units.down_proj),
        activation=units.activation,
        per_token=_at(unit, names.top_k),
        normalize=names.normalize(unit),
        shared=None if names.shared is None else _gated_parts(family, unit[names.shared]),
        shared_gate=_required(unit, names.shared_gate),
    )


def _modules(parts: ModelParts) -> Iterator[Any]:
    """All modules that hold weights."""
    yield parts.embedding
    yield from _norms(parts)
    yield from _linears(parts)
    for layer in parts.layers:
        if isinstance(layer.unit, ExpertsParts):
            yield from (*layer.unit.units.gated, layer.unit.units.down)


def _norms(parts: ModelParts) -> Iterator[Any]:
    yield parts.final_norm
    for layer in parts.layers:
        optional = (
            layer.query_norm,
            layer.key_norm,
            layer.attention_norm,
            layer.attention_output_norm,
            layer.unit_norm,
            layer.unit_output_norm,
        )
        yield from (norm for norm in optional if norm is not None)


def _linears(parts: ModelParts) -> Iterator[Any]:
    if parts.head is not None:
        yield parts.head
    for layer in parts.layers:
        yield from (*layer.inputs, layer.output)
        if isinstance(layer.unit, UnitParts):
            yield from (*layer.unit.gated, layer.unit.down)
            continue
        yield layer.unit.router
        if (shared := layer.unit.shared) is not None:
            yield from (*shared.gated, shared.down, layer.unit.shared_gate)


def _is_norm(norm: Any, parts: ModelParts) -> bool:
    """MLX's RMS norm, or the family's own that adds an offset to the weight."""
    if parts.family.gain_offset == 0.0:
        return type(norm) is nn.RMSNorm
    return kind_of(norm) == f"{type(parts.model).__module__}.RMSNorm"


def _is_understood(layer: LayerParts) -> bool:
    shape, rope = layer.shape, layer.rope
    return (
        rotations.is_known(rope)
        and rotations.rotated_dims(rope) % 2 == shape.dims % 2 == 0
        and rotations.rotated_dims(rope) <= shape.dims
        and shape.queries % shape.keys == 0
        and sum(each.weight.shape[0] for each in layer.inputs) == shape.total * shape.dims
        and (isinstance(layer.unit, UnitParts) or _experts_are_understood(layer.unit))
    )


def _experts_are_understood(experts: ExpertsParts) -> bool:
    linears = (*experts.units.gated, experts.units.down)
    return kind_of(experts.activation) == _SWIGLU and all(
        kind_of(each) == _SWITCH_LINEAR for each in linears
    )
