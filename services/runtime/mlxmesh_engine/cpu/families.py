"""Describes models of mlx-lm as `Decoder`s. Source: mlx_lm/models, mlx-lm 0.32.2."""

from typing import Any

import mlx.core as mx
import numpy as np
from mlx import nn

from mlxmesh_engine.cpu.blocks import Attention, Block, Decoder, GatedUnit, Norm, Rotation
from mlxmesh_engine.cpu.products import Floats, Layout, Product


def is_supported(model: nn.Module) -> bool:
    from mlxmesh_engine.forward.llama_weights import is_plain_llama

    return is_plain_llama(model)


def describe(model: nn.Module, layout: Layout) -> Decoder:
    source: Any = model
    args, inner = source.args, source.model
    blocks = []
    while inner.layers:
        blocks.append(_block(inner.layers.pop(0), args, layout))
    embedding = Product(_floats(inner.embed_tokens.weight), None, layout)
    return Decoder(
        embedding=embedding,
        blocks=tuple(blocks),
        final_norm=Norm(args.rms_norm_eps, _floats(inner.norm.weight)),
        head=embedding
        if args.tie_word_embeddings
        else Product(_floats(source.lm_head.weight), None, layout),
    )


def _floats(array: mx.array) -> Floats:
    return np.array(array, copy=False)


def _block(layer: Any, args: Any, layout: Layout) -> Block:
    attention, unit = layer.self_attn, layer.mlp
    rope = attention.rope
    dims = rope.dims
    order = np.arange(dims) if rope.traditional else np.arange(dims).reshape(2, -1).T.reshape(-1)

    def head_rows(linear: Any, scale: float = 1.0):
        w = _floats(linear.weight)
        b = _floats(linear.bias) if "bias" in linear else None
        w = w.reshape(-1, dims, w.shape[1])[:, order].reshape(w.shape) * np.float32(scale)
        if b is not None:
            b = b.reshape(-1, dims)[:, order].reshape(-1) * np.float32(scale)
        return w, b

    def rows(linear: Any):
        return _floats(linear.weight), _floats(linear.bias) if "bias" in linear else None

    def product(*parts, gain=None):
        w = np.concatenate([p[0] for p in parts])
        if gain is not None:
            w = w * gain
        bs = [p[1] for p in parts if p[1] is not None]
        return Product(w, np.concatenate(bs) if bs else None, layout)

    return Block(
        attention_norm=Norm(args.rms_norm_eps),
        attention=Attention(
            args.num_attention_heads,
            args.num_key_value_heads,
            dims,
            product(
                head_rows(attention.q_proj, dims**-0.5),
                head_rows(attention.k_proj),
                rows(attention.v_proj),
                gain=_floats(layer.input_layernorm.weight),
            ),
            product(rows(attention.o_proj)),
            rotation=_rotation(rope),
        ),
        unit_norm=Norm(args.rms_norm_eps),
        unit=GatedUnit(
            product(
                rows(unit.gate_proj),
                rows(unit.up_proj),
                gain=_floats(layer.post_attention_layernorm.weight),
            ),
            product(rows(unit.down_proj)),
        ),
    )


_cache = {}


def _rotation(rope: Any) -> Rotation:
    if rope.dims not in _cache:
        if isinstance(rope, nn.RoPE):
            f = rope.base ** (-np.arange(0, rope.dims, 2) / rope.dims) * rope.scale
        else:
            f = 1 / np.array(rope._freqs, np.float64)
        _cache[rope.dims] = Rotation(f)
    return _cache[rope.dims]
