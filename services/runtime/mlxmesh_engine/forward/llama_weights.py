"""The weights of a Llama, prepared for `LlamaForward`.

Queries, keys and values become one product, as do the two halves of the gated unit. The gains of
the norms and the scale of the attention are folded into the product that uses them, so that scores
are exponents of two. Within each head, the two dimensions of a rotated pair are neighbours; scores
do not change, because queries and keys are reordered in the same way.
"""

import math
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.rope_utils import Llama3RoPE

from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.attention import LOG2_E
from mlxmesh_engine.forward.weights import parameters

_FAMILIES = ("mlx_lm.models.llama", "mlx_lm.models.qwen2")


@dataclass(frozen=True, slots=True)
class Product:
    """Maps x to x @ matrix + bias. matrix: (in, out), faster in a BLAS than its transpose."""

    matrix: mx.array
    bias: mx.array | None

    def __call__(self, values: mx.array) -> mx.array:
        product = values @ self.matrix
        return product if self.bias is None else product + self.bias


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    attention_in: Product
    """The queries, keys and values of all heads, in this order."""
    attention_out: Product
    gated: Product
    """The gate, then the values that it gates."""
    down: Product


@dataclass(frozen=True, slots=True)
class LlamaShape:
    hidden: int
    heads: int
    kv_heads: int
    head_dims: int


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    shape: LlamaShape
    embedding: mx.array
    layers: list[LlamaLayer]
    final_gain: mx.array
    head: mx.array
    frequencies: mx.array
    """Radians per position for each pair (head_dims / 2,)."""
    norm_epsilon: float
    """Added to the sum of squares, not to their mean."""


def is_plain_llama(model: nn.Module) -> bool:
    """Whether this is a float32 model of mlx-lm with the arithmetic of `LlamaForward`."""
    if type(model).__module__ not in _FAMILIES:
        return False
    source: Any = model
    linears = [each for _, each in source.named_modules() if "Linear" in type(each).__name__]
    ropes = [layer.self_attn.rope for layer in source.model.layers]
    return (
        all(type(each) is nn.Linear for each in linears)
        and all(array.dtype == mx.float32 for _, array in parameters(model))
        and not any(getattr(layer, "use_sliding", False) for layer in source.model.layers)
        and all(type(rope) in (nn.RoPE, Llama3RoPE) for rope in ropes)
    )


def prepare_llama(model: nn.Module) -> LlamaWeights:
    """Consumes the model layer by layer, so that at most one layer is in memory twice."""
    source: Any = model
    args, inner = source.args, source.model
    rope = inner.layers[0].self_attn.rope
    shape = LlamaShape(
        hidden=args.hidden_size,
        heads=args.num_attention_heads,
        kv_heads=args.num_key_value_heads,
        head_dims=rope.dims,
    )
    # "Traditional" pairs are neighbours already.
    order = mx.arange(rope.dims) if rope.traditional else _interleaved(rope.dims)
    layers: list[LlamaLayer] = []
    while inner.layers:
        layers.append(_prepare_layer(inner.layers.pop(0), shape, order=order))
    return LlamaWeights(
        shape=shape,
        embedding=inner.embed_tokens.weight,
        layers=layers,
        final_gain=_gain(inner.norm, shape),
        head=(inner.embed_tokens if args.tie_word_embeddings else source.lm_head).weight.T,
        frequencies=_frequencies(rope),
        norm_epsilon=args.rms_norm_eps * shape.hidden,
    )


def _prepare_layer(layer: Any, shape: LlamaShape, *, order: mx.array) -> LlamaLayer:
    attention, unit = layer.self_attn, layer.mlp
    prepared = LlamaLayer(
        attention_in=_product(
            _head_rows(attention.q_proj, order, scale=LOG2_E * shape.head_dims**-0.5),
            _head_rows(attention.k_proj, order),
            _rows(attention.v_proj),
            gain=_gain(layer.input_layernorm, shape),
        ),
        attention_out=_product(_rows(attention.o_proj)),
        gated=_product(
            _rows(unit.gate_proj),
            _rows(unit.up_proj),
            gain=_gain(layer.post_attention_layernorm, shape),
        ),
        down=_product(_rows(unit.down_proj)),
    )
    products = (prepared.attention_in, prepared.attention_out, prepared.gated, prepared.down)
    evaluate(array for each in products for array in (each.matrix, each.bias) if array is not None)
    return prepared


_Rows = tuple[mx.array, mx.array | None]
"""A linear layer in MLX's layout: weight (out, in), bias (out,)."""


def _rows(linear: Any) -> _Rows:
    return linear.weight, linear.get("bias")


def _head_rows(linear: Any, order: mx.array, *, scale: float = 1.0) -> _Rows:
    """The rows of every head, reordered and scaled."""

    def reorder(outputs: mx.array) -> mx.array:
        by_head = mx.unflatten(outputs, 0, (-1, order.size))
        return mx.flatten(by_head[:, order], 0, 1) * scale

    weight, bias = _rows(linear)
    return reorder(weight), None if bias is None else reorder(bias)


def _product(*parts: _Rows, gain: mx.array | None = None) -> Product:
    """One product for all parts; includes the multiplication of the input by `gain`."""
    weight = mx.concatenate([weight for weight, _ in parts])
    biases = [bias for _, bias in parts if bias is not None]
    return Product(
        mx.contiguous((weight if gain is None else weight * gain).T),
        mx.concatenate(biases) if biases else None,
    )


def _gain(norm: Any, shape: LlamaShape) -> mx.array:
    """The norm's gain, scaled for a division by the root of the sum of squares, not their mean."""
    return norm.weight * math.sqrt(shape.hidden)


def _interleaved(head_dims: int) -> mx.array:
    half = head_dims // 2
    return mx.array([at for pair in range(half) for at in (pair, pair + half)])


def _frequencies(rope: Any) -> mx.array:
    if isinstance(rope, nn.RoPE):
        pairs = mx.arange(rope.dims // 2, dtype=mx.float32)
        return rope.scale * mx.power(rope.base, pairs * (-2 / rope.dims))
    return 1 / rope._freqs
