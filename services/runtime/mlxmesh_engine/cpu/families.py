"""Describes models of mlx-lm as `Decoder`s: all families of `family_table`, in float32.

Constants become part of the weights: the gain of a norm is in the product after it, the scale of
the attention in the queries, a residual multiplier in the outputs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from mlx import nn

from mlxmesh_engine.cpu import rotations
from mlxmesh_engine.cpu.adapters import AdaptedProducts, Source
from mlxmesh_engine.cpu.blocks import (
    Attention,
    Block,
    Decoder,
    Experts,
    GatedUnit,
    Norm,
    QueryGrowth,
)
from mlxmesh_engine.cpu.family import Family
from mlxmesh_engine.cpu.parts import (
    ExpertsParts,
    LayerParts,
    ModelParts,
    UnitParts,
    find_parts,
    is_complete,
)
from mlxmesh_engine.cpu.products import Floats, Layout, Product
from mlxmesh_engine.cpu.weights import HeadShape, Rows, arrange_heads, join, take_gain, take_rows


def is_supported(model: nn.Module) -> bool:
    """Whether `describe` knows every parameter and all of the arithmetic. Evaluates nothing."""
    try:
        return is_complete(find_parts(model), model)
    except (LookupError, AttributeError):
        # Another family, or a version of mlx-lm that builds this one differently.
        return False


def vocab_size(model: nn.Module) -> int:
    """Of a model that is supported."""
    return int(find_parts(model).embedding.weight.shape[0])


def describe(model: nn.Module, layout: Layout) -> Decoder:
    """Consumes a model that is supported, so that at most one layer is in memory twice."""
    paths = {id(module): path for path, module in cast("Any", model).named_modules()}
    return _Description(find_parts(model), layout, paths).decoder()


class _Description:
    """Takes the weights out of the modules of a model."""

    def __init__(self, parts: ModelParts, layout: Layout, paths: dict[int, str]) -> None:
        """paths: of all modules, by their identity."""
        self._parts = parts
        self._paths = paths
        self._adapters = AdaptedProducts()
        self._family: Family = parts.family
        self._layout = layout
        self._rotations = rotations.Rotations()

    def decoder(self) -> Decoder:
        parts, family = self._parts, self._family
        blocks = tuple(self._block(layer) for layer in parts.layers)
        embedding = take_rows(parts.embedding).product(self._layout)
        head = embedding if family.tied(parts.model) else self._product(take_rows(parts.head))
        return Decoder(
            embedding=embedding,
            blocks=blocks,
            final_norm=self._norm(parts.final_norm),
            head=head,
            embedding_scale=family.embedding_scale(parts.model),
            score_scale=family.score_scale(parts.model),
            score_softcap=family.score_softcap(parts.model),
            adapters=self._adapters,
        )

    def _block(self, layer: LayerParts) -> Block:
        scale = self._family.residual_scale(layer.layer)
        attention_norm, attention_gain = self._folded_norm(layer.attention_norm)
        unit_norm, unit_gain = self._folded_norm(layer.unit_norm)
        return Block(
            attention_norm=attention_norm,
            attention=self._attention(layer, attention_gain, scale),
            unit_norm=unit_norm,
            unit=self._unit(layer.unit, unit_gain, scale),
            attention_output_norm=self._optional_norm(layer.attention_output_norm),
            unit_output_norm=self._optional_norm(layer.unit_output_norm),
        )

    def _attention(self, layer: LayerParts, gain: Floats | None, scale: float) -> Attention:
        shape, source = layer.shape, layer.attention
        growth = self._family.query_growth(source)
        normed = layer.query_norm is not None or self._plain_norm(source) is not None
        arrange = partial(
            arrange_heads,
            shape=shape,
            dims_order=rotations.pair_order(layer.rope, shape.dims),
            query_scale=1.0 if normed else source.scale,
            in_groups=self._family.groups_of_heads,
        )
        return Attention(
            heads=shape.queries,
            kv_heads=shape.keys,
            head_dims=shape.dims,
            inputs=self._adapted_product(layer.inputs, gain, arrange),
            output=self._adapted_product([layer.output], None, _scaled(scale)),
            query_norm=self._head_norm(layer.query_norm, layer, scale=source.scale),
            key_norm=self._head_norm(layer.key_norm, layer),
            norms_after_rotation=self._family.norms_after_rotation,
            rotation=self._rotations.of(layer.rope),
            query_growth=None if growth is None else QueryGrowth(*growth),
            window=layer.window,
            softcap=self._family.attention_softcap(source),
        )

    def _unit(
        self, unit: UnitParts | ExpertsParts, gain: Floats | None, scale: float
    ) -> GatedUnit | Experts:
        if isinstance(unit, UnitParts):
            return self._gated_unit(unit, gain, scale)
        return self._experts(unit, gain, scale)

    def _experts(self, experts: ExpertsParts, gain: Floats | None, scale: float) -> Experts:
        gated = [take_rows(linear) for linear in experts.units.gated]
        down = take_rows(experts.units.down).scaled(scale)
        shared, gate = experts.shared, experts.shared_gate
        return Experts(
            router=self._adapted_product([experts.router], gain),
            units=tuple(
                GatedUnit(
                    self._product(join([rows.expert(index) for rows in gated], gain)),
                    self._product(down.expert(index)),
                    self._family.activation,
                )
                for index in range(len(down.weight))
            ),
            per_token=experts.per_token,
            normalize=experts.normalize,
            shared=None if shared is None else self._gated_unit(shared, gain, scale),
            shared_gate=None if gate is None else self._adapted_product([gate], gain),
        )

    def _gated_unit(self, unit: UnitParts, gain: Floats | None, scale: float) -> GatedUnit:
        return GatedUnit(
            self._adapted_product(unit.gated, gain),
            self._adapted_product([unit.down], None, _scaled(scale)),
            self._family.activation,
        )

    def _norm(self, norm: Any) -> Norm:
        return Norm(norm.eps, take_gain(norm, self._family.gain_offset))

    def _optional_norm(self, norm: Any | None) -> Norm | None:
        return None if norm is None else self._norm(norm)

    def _folded_norm(self, norm: Any | None) -> tuple[Norm | None, Floats | None]:
        """A norm without its gain, and the gain, which the next product includes."""
        if norm is None:
            return None, None
        return Norm(norm.eps), take_gain(norm, self._family.gain_offset)

    def _plain_norm(self, attention: Any) -> float | None:
        return self._family.plain_norm_epsilon(attention)

    def _head_norm(self, norm: Any | None, layer: LayerParts, scale: float = 1.0) -> Norm | None:
        """The norm of queries or keys; dimensions are ordered as theirs are."""
        if norm is None:
            if (epsilon := self._plain_norm(layer.attention)) is None:
                return None
            return Norm(epsilon, np.full(layer.shape.dims, scale, np.float32))
        gain = take_gain(norm, self._family.gain_offset) * np.float32(scale)
        order = rotations.pair_order(layer.rope, layer.shape.dims)
        return Norm(norm.eps, _by_head(gain, layer.shape)[:, order].reshape(-1))

    def _product(self, rows: Rows) -> Product:
        return rows.product(self._layout)

    def _adapted_product(
        self,
        linears: Sequence[Any],
        gain: Floats | None,
        arrange: Callable[[Rows], Rows] = lambda rows: rows,
    ) -> Product:
        """Of all these layers. gain: of the inputs. arrange: of the outputs."""
        shapes = {self._paths[id(linear)]: tuple(linear.weight.shape) for linear in linears}
        taken = [take_rows(linear) for linear in linears]
        joined = taken[0] if len(taken) == 1 and gain is None else join(taken, gain)
        rows = arrange(joined)
        return self._adapters.product(rows, self._layout, Source(shapes, gain, arrange))


def _scaled(factor: float) -> Callable[[Rows], Rows]:
    return lambda rows: rows.scaled(factor)


def _by_head(gain: Floats, shape: HeadShape) -> Floats:
    return gain.reshape(-1, shape.dims)
