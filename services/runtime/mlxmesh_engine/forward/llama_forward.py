"""The Llama family's forward pass for a CPU, with less than half of mlx-lm's graph nodes.

On a CPU mlx composes RMS norm, rotary embedding and attention of small operations, and with few
rows the number of nodes determines the duration of a step. Here one complex product rotates a pair,
and all work that can be done once is in the weights: see `llama_weights`.
Source: the arithmetic of mlx_lm/models/llama.py and qwen2.py, mlx-lm 0.32.2.
"""

from typing import Any

import mlx.core as mx

from mlxmesh_engine.forward.attention import LOG2_E, attend, exp2
from mlxmesh_engine.forward.llama_weights import LlamaLayer, LlamaWeights


class LlamaForward:
    """Token ids (batch, length) to scores (batch, length, vocab)."""

    def __init__(self, weights: LlamaWeights) -> None:
        self._weights = weights
        self.layers = weights.layers
        """mlx-lm makes a cache for each of them."""

    def __call__(self, inputs: mx.array, *, cache: list[Any]) -> mx.array:
        rows, length = inputs.shape
        rotation = self._rotation(cache[0].offset, length)
        # A single row is never padded.
        mask = cache[0].make_mask(length) if rows > 1 else None
        hidden = self._weights.embedding[inputs]
        for layer, layer_cache in zip(self.layers, cache, strict=True):
            attended = self._attend(layer, self._normed(hidden), rotation, mask, layer_cache)
            hidden = hidden + layer.attention_out(attended)
            hidden = hidden + _gated_unit(layer, self._normed(hidden))
        return (self._normed(hidden) * self._weights.final_gain) @ self._weights.head

    def _rotation(self, offset: mx.array, length: int) -> mx.array:
        """Cos + i sin of each position and pair: (batch, length, 1, dims / 2) complex64."""
        positions = offset[:, None] + mx.arange(length) if length > 1 else offset[:, None]
        angles = positions[..., None].astype(mx.float32) * self._weights.frequencies
        parts = mx.stack([mx.cos(angles), mx.sin(angles)], axis=-1)
        return mx.expand_dims(mx.squeeze(parts.view(mx.complex64), -1), 2)

    def _normed(self, hidden: mx.array) -> mx.array:
        """RMS norm without the gain and the root of the size, which are in the next product."""
        squares = mx.sum(mx.square(hidden), axis=-1, keepdims=True)
        return hidden * mx.rsqrt(squares + self._weights.norm_epsilon)

    def _attend(
        self, layer: LlamaLayer, hidden: mx.array, rotation: mx.array, mask: Any, cache: Any
    ) -> mx.array:
        """The attention output (batch, length, heads * dims); extends the cache."""
        shape = self._weights.shape
        heads = mx.unflatten(layer.attention_in(hidden), -1, (-1, shape.head_dims))
        rotated_heads = shape.heads + shape.kv_heads
        rotated = (heads.view(mx.complex64)[:, :, :rotated_heads] * rotation).view(mx.float32)
        keys, values = cache.update_and_fetch(
            rotated[:, :, shape.heads :].swapaxes(1, 2),
            heads[:, :, rotated_heads:].swapaxes(1, 2),
        )
        return attend(rotated[:, :, : shape.heads], keys, values, mask)


def _gated_unit(layer: LlamaLayer, hidden: mx.array) -> mx.array:
    gate, up = mx.split(layer.gated(hidden), 2, axis=-1)
    # The silu of the gate, times the values that it gates.
    return layer.down(gate * up / (1 + exp2(gate * -LOG2_E)))
