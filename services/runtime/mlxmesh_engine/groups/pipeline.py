"""Divides a model's layers among the ranks of a group, by mlx-lm's own method.

Rank 0 has the last layers, the rank with the highest number the first ones. Only for architectures
whose scores were compared with those of the whole model: see `sharding`.
"""

from collections.abc import Sequence
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import make_prompt_cache

from mlxmesh_engine.cache.row_state import arrays_of
from mlxmesh_engine.evaluation import evaluate_async
from mlxmesh_engine.groups.ring import Ring
from mlxmesh_shared.errors import InvalidArgument

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
    """Whether mlx-lm has a method for it."""
    return hasattr(_inner(model), "pipeline")


def pipeline(model: nn.Module, ring: Ring) -> None:
    """Keeps this rank's layers.

    Nothing is evaluated, so the layers of other ranks are never in memory.
    Raises: InvalidArgument if there are fewer layers than ranks.
    """
    inner, size = _inner(model), cast("int", ring.size())
    layers = len(inner.layers)
    if layers < size:
        raise InvalidArgument(
            f"this model has {layers} layers, too few for {size} ranks; choose another group_size",
            field="group_size",
        )
    inner.pipeline(ring)


def _inner(model: nn.Module) -> Any:
    """Where mlx-lm's own loader looks for the method."""
    return getattr(model, "model", None)
