"""Divides a model's layers among the ranks of a group, by mlx-lm's own method where it has one.

Rank 0 has the last layers, the rank with the highest number the first ones. Only for architectures
whose scores were compared with those of the whole model: see `sharding`.
"""

import inspect
import logging
from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from mlxmesh_engine.cache.row_state import arrays_of
from mlxmesh_engine.evaluation import evaluate_async
from mlxmesh_engine.forward.weights import every_array
from mlxmesh_engine.groups.layer_shares import Layer, are_equal, divide_layers
from mlxmesh_engine.groups.llama_pipeline import is_llama, prepare_llama
from mlxmesh_engine.groups.ring import Ring
from mlxmesh_shared.errors import InvalidArgument

_log = logging.getLogger(__name__)

EXACT = frozenset(
    {
        "bailing_hybrid",
        "deepseek_v2",
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v41",
        "glm4_moe",
        "glm4_moe_lite",
        "glm_moe_dsa",
        "kimi_k25",
        "kimi_k3",
        "llama",
        "minimax_m3_vl",
        "ministral3",
        "mistral4",
        "qwen2",
        "qwen3_5",
        "qwen3_moe",
        "qwen3_next",
    }
)
"""Modules of mlx-lm 0.32.2."""


class PassesInOrder(nn.Module):
    """A model whose ranks send and receive in the order of the calls.

    What a rank receives depends on nothing else in its graph. So a graph with several passes, or
    with a pass and the exchange of its tokens, could receive in another order than others send.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.whole = model

    def make_cache(self) -> list[Any]:
        return make_prompt_cache(cast("Any", self.whole))

    def __call__(self, inputs: mx.array, *, cache: list[Any]) -> mx.array:
        # Only the rank with the first layers needs the tokens, but all take part in their exchange.
        evaluate_async([inputs])
        scores = cast("Any", self.whole)(inputs, cache=cache)
        evaluate_async([*arrays_of([layer.state for layer in cache])])
        return scores


def kinds_of_caches(model: nn.Module) -> str:
    """The kinds of caches that this rank's layers need."""
    return ", ".join(sorted({_kind(cache) for cache in make_prompt_cache(cast("Any", model))}))


def _kind(cache: Any) -> str:
    parts: Sequence[Any] = getattr(cache, "caches", ())
    return f"{type(cache).__name__}({', '.join(map(_kind, parts))})"


def can_pipeline(model: nn.Module) -> bool:
    """Whether mlx-lm or `llama_pipeline` has a method for it."""
    return hasattr(_inner(model), "pipeline") or is_llama(model)


def layers_of(model: nn.Module) -> int:
    """How many layers a model has that can be divided."""
    return len(_inner(model).layers)


def pipeline(model: nn.Module, ring: Ring, shares: Sequence[int] = ()) -> None:
    """Keeps this rank's layers. shares: of the layers, by rank; by default equal ones.

    Nothing is evaluated, so the layers of other ranks are never in memory.
    Raises: InvalidArgument if there are fewer layers than ranks.
    """
    layers, size = layers_of(model), cast("int", ring.size())
    if layers < size:
        most = "set --group 1" if layers == 1 else f"use --group {layers} or less"
        raise InvalidArgument(
            f"this model has {layers} layers, too few for {size} ranks with pipeline; {most}",
            field="group_size",
        )
    if is_llama(model):
        prepare_llama(model)
    inner, counts = _inner(model), _uneven_counts(model, shares)
    if counts is None:
        inner.pipeline(ring)
    else:
        inner.pipeline(ring, split=counts)
        _log.info("layers by rank: %s", ", ".join(map(str, counts)))


def _uneven_counts(model: nn.Module, shares: Sequence[int]) -> list[int] | None:
    """How many layers each rank gets; None if mlx-lm divides them evenly."""
    if not shares or are_equal(shares):
        return None
    inner = _inner(model)
    if "split" not in inspect.signature(inner.pipeline).parameters:
        _log.warning("mlx-lm divides layers of this architecture evenly only")
        return None
    kinds = [_kind(cache) for cache in make_prompt_cache(cast("Any", model))]
    if len(kinds) != len(inner.layers):
        _log.warning("this model has %d caches for its layers, divided evenly", len(kinds))
        return None
    layers = [
        Layer(sum(array.nbytes for array in every_array(layer)), kind)
        for layer, kind in zip(inner.layers, kinds, strict=True)
    ]
    counts = divide_layers(layers, shares)
    if counts is None:
        _log.warning("no other division gives each rank layers of all kinds: divided evenly")
    return counts


def _inner(model: nn.Module) -> Any:
    """Where mlx-lm's own loader looks for the method."""
    return getattr(model, "model", None)
