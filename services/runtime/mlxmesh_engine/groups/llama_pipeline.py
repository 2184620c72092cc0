"""Divides mlx-lm's llama by layers, for which mlx-lm itself has no method.

Source: mlx-lm 0.32.2: models/llama.py (the pass), models/qwen2.py (the exchanges).
"""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx_lm.models import base as mlx_lm_base
from mlx_lm.models import llama
from mlx_lm.models.pipeline import PipelineMixin

from mlxmesh_engine.groups.ring import Ring

_distributed = cast("Any", mx.distributed)
_attention_mask = cast("Any", mlx_lm_base).create_attention_mask


def is_llama(model: nn.Module) -> bool:
    return type(model) is llama.Model


def prepare_llama(model: nn.Module) -> None:
    """Gives the model the method `pipeline`, where mlx-lm's own loader looks for it."""
    whole = cast("Any", model)
    whole.model = LlamaLayers(whole.model)


class LlamaLayers(PipelineMixin, nn.Module):
    """Takes the place of `LlamaModel`, with its weights."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.sliding_window = whole.sliding_window
        self.embed_tokens = whole.embed_tokens
        self.layers = whole.layers
        self.norm = whole.norm

    def pipeline(self, group: Ring, split: Sequence[int] | None = None) -> None:
        """Keeps this rank's layers; the caches of a model are those of all `layers` that it has."""
        cast("Any", super()).pipeline(group, split)
        self.layers = cast("Any", self).pipeline_layers
        self.group = group

    def __call__(
        self, inputs: mx.array, cache: Sequence[Any], input_embeddings: None = None
    ) -> mx.array:
        h = self.embed_tokens(inputs)
        masks = self._masks(h, cache)
        rank, size = self.group.rank(), self.group.size()
        if rank < size - 1:
            h = _distributed.recv_like(h, rank + 1, group=self.group)
        for layer, own in zip(self.layers, cache, strict=True):
            h = layer(h, masks[layer.use_sliding], cache=own)
        if rank != 0:
            h = _distributed.send(h, rank - 1, group=self.group)
            # So that the send is evaluated with the cache.
            cache[-1].keys = cast("Any", mx).depends(cache[-1].keys, h)
        # Rank 0 has the result; the first rows of what is gathered are its own.
        h = _distributed.all_gather(h, group=self.group)[: h.shape[0]]
        return self.norm(h)

    def _masks(self, h: mx.array, cache: Sequence[Any]) -> dict[bool, Any]:
        """For layers without and with a sliding window, where this rank has some."""
        masks: dict[bool, Any] = {}
        for layer, own in zip(self.layers, cache, strict=True):
            if layer.use_sliding not in masks:
                window = self.sliding_window if layer.use_sliding else None
                masks[layer.use_sliding] = _attention_mask(h, own, window_size=window)
        return masks
