"""mlx-lm's batched cache of one layer, with 8 or 4 bits for each number."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx
from mlx_lm.models.cache import BatchKVCache, KVCache, make_prompt_cache

GROUP_DIMS = 32
_WORD_BITS = 32

Quantized = tuple[mx.array, mx.array, mx.array]
"""Codes, scales and biases, as `mx.quantize` makes them."""
_view = cast("Callable[[mx.array, mx.Dtype], mx.array]", mx.view)


class BatchQuantizedKVCache(BatchKVCache):
    """Holds codes, scales and biases side by side in one array of words.

    So rows are joined, filtered, padded and cut as those of a BatchKVCache are. A model's attention
    (`mlx_lm.models.base.scaled_dot_product_attention`) reads `bits` and `group_size`, and gets
    quantized keys and values of all tokens, those of the present pass too.
    """

    group_size = GROUP_DIMS

    def __init__(self, layer: BatchKVCache, bits: int) -> None:
        """layer: with words in place of keys and values, or empty; not to be used again."""
        super().__init__([])
        self.state = cast("Any", layer).state
        self.bits = bits

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Quantized, Quantized]:
        append = cast("Any", super()).update_and_fetch
        held_keys, held_values = append(self._packed(keys), self._packed(values))
        return self._unpacked(held_keys, keys), self._unpacked(held_values, values)

    def _packed(self, numbers: mx.array) -> mx.array:
        codes, scales, biases = mx.quantize(numbers, group_size=GROUP_DIMS, bits=self.bits)
        factors = mx.concatenate([scales, biases], axis=-1)
        return mx.concatenate([codes, _view(factors, mx.uint32)], axis=-1)

    def _unpacked(self, words: mx.array, like: mx.array) -> Quantized:
        """like: numbers of the same dims and type."""
        dims = like.shape[-1]
        codes = dims * self.bits // _WORD_BITS
        factors = _view(words[..., codes:], like.dtype)
        groups = dims // GROUP_DIMS
        return words[..., :codes], factors[..., :groups], factors[..., groups:]


def can_quantize(model: object) -> bool:
    """Whether each layer has mlx-lm's plain cache."""
    layers = cast("Sequence[Any]", make_prompt_cache(cast("Any", model)))
    return all(type(layer) is KVCache for layer in layers)
