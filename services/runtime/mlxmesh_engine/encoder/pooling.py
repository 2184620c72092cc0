"""Hidden states to vectors: pooling, and the modules of sentence-transformers after it."""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx

from mlxmesh_engine.encoder.activations import activation
from mlxmesh_engine.encoder.files import Dense, EncoderFiles
from mlxmesh_engine.encoder.tokens import TokenBatch
from mlxmesh_engine.encoder.weights import Arrays, check_finite, read_arrays
from mlxmesh_shared.errors import InvalidArgument

Head = Callable[[mx.array, TokenBatch], mx.array]
"""Hidden states (rows, length, hidden) to results (rows, size)."""
_TINY = 1e-12
"""The smallest length that a vector is divided by."""


def pool(hidden: mx.array, batch: TokenBatch, modes: Sequence[str]) -> mx.array:
    """The pooled vectors (rows, modes * hidden), in the order of the modes."""
    return mx.concatenate([_MODES[mode](hidden, batch) for mode in modes], axis=1)


def _weighted(hidden: mx.array, batch: TokenBatch, weights: mx.array) -> mx.array:
    """The mean of the tokens' vectors by weights (rows, length)."""
    weights = weights.astype(hidden.dtype) * batch.present
    total = mx.sum(hidden * weights[:, :, None], axis=1)
    return total / mx.sum(weights, axis=1, keepdims=True)


def _mean(hidden: mx.array, batch: TokenBatch) -> mx.array:
    return _weighted(hidden, batch, mx.ones(hidden.shape[:2], hidden.dtype))


def _weighted_mean(hidden: mx.array, batch: TokenBatch) -> mx.array:
    return _weighted(hidden, batch, mx.arange(1, hidden.shape[1] + 1)[None])


def _mean_sqrt_len(hidden: mx.array, batch: TokenBatch) -> mx.array:
    lengths = mx.array(batch.lengths).astype(hidden.dtype)[:, None]
    return _mean(hidden, batch) * mx.sqrt(lengths)


def _max(hidden: mx.array, batch: TokenBatch) -> mx.array:
    lowest = mx.array(mx.finfo(hidden.dtype).min, hidden.dtype)
    return mx.max(mx.where(batch.present[:, :, None], hidden, lowest), axis=1)


def last_token(hidden: mx.array, batch: TokenBatch) -> mx.array:
    """The hidden state of each row's last token (rows, hidden)."""
    return hidden[mx.arange(hidden.shape[0]), mx.array(batch.lengths - 1)]


_MODES: Mapping[str, Head] = {
    "cls": lambda hidden, batch: hidden[:, 0],
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": last_token,
}


class VectorHead:
    """Pools hidden states and applies the modules after it; a `Head`."""

    def __init__(self, files: EncoderFiles, dtype: mx.Dtype) -> None:
        """Reads the weights of dense layers. Raises: InvalidArgument."""
        self._modes = files.pooling
        self._steps: list[Callable[[mx.array], mx.array]] = []
        self.arrays: list[mx.array] = []
        for step in files.steps:
            self._steps.append(self._dense(step, dtype) if isinstance(step, Dense) else normalize)

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        vectors = pool(hidden, batch, self._modes)
        for step in self._steps:
            vectors = step(vectors)
        return vectors

    def _dense(self, step: Dense, dtype: mx.Dtype) -> Callable[[mx.array], mx.array]:
        arrays: Arrays = read_arrays([step.folder / "model.safetensors"])
        names = ("linear.weight", "linear.bias") if step.bias else ("linear.weight",)
        if missing := [name for name in names if name not in arrays]:
            raise InvalidArgument(
                f"{step.folder.name} has no tensor {missing[0]}", field="model_dir"
            )
        own = {name: arrays[name].astype(dtype) for name in names}
        check_finite(own, step.folder.name)
        self.arrays += own.values()
        act, weight, bias = (
            activation(step.activation),
            own["linear.weight"].T,
            own.get("linear.bias"),
        )

        def apply(vectors: mx.array) -> mx.array:
            product = vectors @ weight
            return act(product if bias is None else product + bias)

        return apply


def normalize(vectors: mx.array) -> mx.array:
    """The vectors (rows, size) with length 1."""
    lengths = mx.sqrt(mx.sum(vectors * vectors, axis=1, keepdims=True))
    return vectors / mx.maximum(lengths, _TINY)
