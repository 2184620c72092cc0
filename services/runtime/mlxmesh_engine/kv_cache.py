"""The keys and values of a batch: mlx-lm's batched caches, one per layer, moved as one."""

from collections.abc import Sequence as Seq
from typing import Any, Protocol, cast

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from mlxmesh_shared.errors import FeatureNotSupported


class LayerCache(Protocol):
    """What mlx-lm's BatchKVCache, BatchRotatingKVCache, ArraysCache and CacheList have in common.

    Source: mlx_lm/models/cache.py, mlx-lm 0.32.2.
    """

    state: Any

    @property
    def nbytes(self) -> int: ...
    def filter(self, batch_indices: list[int]) -> None: ...
    def extend(self, other: "LayerCache") -> None: ...
    def prepare(self, *, lengths: list[int], right_padding: list[int]) -> None: ...
    def finalize(self) -> None: ...


class BatchCache:
    """The cache of `rows` sequences; `layers` is what a model's `cache` argument takes."""

    def __init__(self, layers: list[LayerCache], rows: int) -> None:
        self.layers = layers
        self.rows = rows

    @classmethod
    def empty(cls, model: object, rows: int) -> "BatchCache":
        """Raises: FeatureNotSupported when the model's kind of cache cannot be batched."""
        singles = [_single_cache(model) for _ in range(rows)]
        layers: list[LayerCache] = []
        for of_layer in zip(*singles, strict=True):
            kind = cast("type[Any]", type(of_layer[0]))
            if not hasattr(kind, "merge"):
                raise FeatureNotSupported(
                    f"this model keeps a {kind.__name__}, which cannot be batched; "
                    "choose another model"
                )
            layers.append(of_layer[0].merge(list(of_layer)))
        return cls(layers, rows)

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def arrays(self) -> list[mx.array]:
        """Every array it holds, to be evaluated."""
        found: list[mx.array] = []
        for layer in self.layers:
            _collect(layer.state, found)
        return found

    def extend(self, other: "BatchCache") -> None:
        """Appends the other's rows; the other must not be used again."""
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.extend(theirs)
        self.rows += other.rows

    def keep(self, rows: Seq[int]) -> None:
        for layer in self.layers:
            layer.filter(list(rows))
        self.rows = len(rows)

    def prepare(self, lengths: list[int]) -> None:
        """Announces right-padded input of these true lengths; `finalize` after the last of it."""
        longest = max(lengths)
        for layer in self.layers:
            layer.prepare(lengths=lengths, right_padding=[longest - n for n in lengths])

    def finalize(self) -> None:
        for layer in self.layers:
            layer.finalize()


def _single_cache(model: object) -> list[Any]:
    return make_prompt_cache(cast("Any", model))


def _collect(state: Any, found: list[mx.array]) -> None:
    if isinstance(state, mx.array):
        found.append(state)
    elif isinstance(state, list | tuple):
        for part in cast("list[Any]", state):
            _collect(part, found)
