"""The forward pass of BERT, RoBERTa, XLM-R, DistilBERT and MPNet.

Source: Devlin et al., "BERT" (2019); Liu et al., "RoBERTa" (2019); Sanh et al., "DistilBERT"
(2019); Song et al., "MPNet" (2020), with the relative positions of Raffel et al., "T5" (2020).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlxmesh_engine.encoder import cpu_kernels
from mlxmesh_engine.encoder.activations import activation
from mlxmesh_engine.encoder.files import SHIFTED_POSITIONS, padding_token
from mlxmesh_engine.encoder.tokens import TokenBatch
from mlxmesh_engine.encoder.weights import Arrays
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_shared.errors import InvalidArgument

_MAX_SCORES = 2**26
"""Attention scores computed at once: 256 MiB in float32."""
_BUCKETS = 32
_MAX_DISTANCE = 128
Progress = Callable[[], None]
"""Called between layers; may raise to end the pass."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model."""

    layers: int
    heads: int
    hidden: int
    norm_eps: float
    activation: str
    first_position: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """Raises: InvalidArgument."""
        model_type = config["model_type"]
        distil = model_type == "distilbert"
        shifted = model_type in SHIFTED_POSITIONS
        try:
            return cls(
                layers=int(config["n_layers" if distil else "num_hidden_layers"]),
                heads=int(config["n_heads" if distil else "num_attention_heads"]),
                hidden=int(config["dim" if distil else "hidden_size"]),
                norm_eps=1e-12 if distil else float(config.get("layer_norm_eps", 1e-12)),
                activation=str(config.get("activation" if distil else "hidden_act", "gelu")),
                first_position=padding_token(config) + 1 if shifted else 0,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidArgument(f"config.json lacks {error}", field="model_dir") from error


class BidirectionalModel:
    """Token batches to hidden states (rows, length, hidden); padding changes no other token's."""

    def __init__(self, config: Mapping[str, Any], arrays: Arrays) -> None:
        """arrays: as `weights.renamed` returns them; the model keeps those that it needs.

        Raises: InvalidArgument when some are missing.
        """
        self.shape = Shape.of(config)
        self._act = activation(self.shape.activation)
        self._scale = 1 / math.sqrt(self.shape.hidden // self.shape.heads)
        try:
            self._embeddings = _embeddings(arrays)
            self._layers = [_Layer(arrays, i) for i in range(self.shape.layers)]
        except KeyError as error:
            raise InvalidArgument(
                f"the model's files have no tensor {error}", field="model_dir"
            ) from error
        self._relative = arrays.get("encoder.relative_attention_bias.weight")

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that the model holds."""
        relative = [self._relative] if self._relative is not None else []
        layers = [array for layer in self._layers for array in layer.arrays]
        return [*self._embeddings.values(), *layers, *relative]

    def __call__(self, batch: TokenBatch, progress: Progress) -> mx.array:
        hidden = self._embedded(batch)
        bias = self._bias(batch.token_ids.shape[1])
        for layer in self._layers:
            hidden = self._layer(layer, hidden, batch, bias)
            evaluate([hidden])
            progress()
        return hidden

    def _embedded(self, batch: TokenBatch) -> mx.array:
        """The embeddings of tokens, positions and types (rows, length, hidden)."""
        found, (_, length) = self._embeddings, batch.token_ids.shape
        first = self.shape.first_position
        hidden = found["word"][batch.token_ids] + found["position"][first : first + length]
        if "type" in found:
            types = batch.types(found["type"].shape[0])
            hidden = hidden + found["type"][types]
        return self._norm(hidden, found["norm.weight"], found["norm.bias"])

    def _bias(self, length: int) -> mx.array | None:
        """What relative positions add to attention scores (1, heads, length, length)."""
        if self._relative is None:
            return None
        return mx.transpose(self._relative[relative_buckets(length)], (2, 0, 1))[None]

    def _layer(
        self, layer: "_Layer", hidden: mx.array, batch: TokenBatch, bias: mx.array | None
    ) -> mx.array:
        joined = _linear(hidden, layer.joined)
        if cpu_kernels.serves(joined):
            attended = cpu_kernels.attend(
                joined, batch.lengths, heads=self.shape.heads, scale=self._scale, bias=bias
            )
        else:
            attended = self._attend(joined, batch, bias)
        hidden = self._norm(hidden + _linear(attended, layer.output), *layer.attention_norm)
        inner = self._act(_linear(hidden, layer.intermediate))
        return self._norm(hidden + _linear(inner, layer.dense), *layer.output_norm)

    def _attend(self, joined: mx.array, batch: TokenBatch, bias: mx.array | None) -> mx.array:
        rows, length, size = joined.shape
        split = mx.reshape(joined, (rows, length, 3, self.shape.heads, -1))
        queries, keys, values = (mx.transpose(split[:, :, i], (0, 2, 1, 3)) for i in range(3))
        padding = batch.padding_mask(joined.dtype)
        step = max(1, _MAX_SCORES // (rows * self.shape.heads * length))
        parts: list[mx.array] = []
        for start in range(0, length, step):
            own = None if bias is None else bias[:, :, start : start + step]
            mask = padding if own is None else own if padding is None else own + padding
            part = queries[:, :, start : start + step]
            parts.append(
                mx.fast.scaled_dot_product_attention(
                    part, keys, values, scale=self._scale, mask=mask
                )
            )
            if length > step:
                evaluate(parts[-1:])
        attended = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
        return mx.reshape(mx.transpose(attended, (0, 2, 1, 3)), (rows, length, size // 3))

    def _norm(self, hidden: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
        return mx.fast.layer_norm(hidden, weight, bias, self.shape.norm_eps)


Linear = tuple[mx.array, mx.array]
"""Weights (inputs, outputs) and biases (outputs,)."""


class _Layer:
    """The weights of one layer."""

    def __init__(self, arrays: Arrays, index: int) -> None:
        name = f"encoder.layer.{index}."
        parts = [linear(arrays, f"{name}attention.self.{p}") for p in ("query", "key", "value")]
        self.joined: Linear = (
            mx.concatenate([weight for weight, _ in parts], axis=1),
            mx.concatenate([bias for _, bias in parts]),
        )
        self.output = linear(arrays, f"{name}attention.output.dense")
        self.attention_norm = _norm(arrays, f"{name}attention.output.LayerNorm")
        self.intermediate = linear(arrays, f"{name}intermediate.dense")
        self.dense = linear(arrays, f"{name}output.dense")
        self.output_norm = _norm(arrays, f"{name}output.LayerNorm")

    @property
    def arrays(self) -> list[mx.array]:
        linears = (self.joined, self.output, self.intermediate, self.dense)
        return [*(a for one in linears for a in one), *self.attention_norm, *self.output_norm]


def linear(arrays: Arrays, name: str) -> Linear:
    """A linear layer by its name. Raises: KeyError."""
    return arrays[f"{name}.weight"].T, arrays[f"{name}.bias"]


def _norm(arrays: Arrays, name: str) -> tuple[mx.array, mx.array]:
    return arrays[f"{name}.weight"], arrays[f"{name}.bias"]


def _embeddings(arrays: Arrays) -> Arrays:
    found = {
        "word": arrays["embeddings.word_embeddings.weight"],
        "position": arrays["embeddings.position_embeddings.weight"],
        "norm.weight": arrays["embeddings.LayerNorm.weight"],
        "norm.bias": arrays["embeddings.LayerNorm.bias"],
    }
    types = arrays.get("embeddings.token_type_embeddings.weight")
    return found if types is None else {**found, "type": types}


def _linear(inputs: mx.array, layer: Linear) -> mx.array:
    weight, bias = layer
    return mx.addmm(bias, inputs, weight)


def relative_buckets(length: int) -> mx.array:
    """The bucket of each pair of positions (length, length): near ones exactly, far ones by the
    logarithm of their distance, each direction apart.
    """
    positions = mx.arange(length)
    distance = positions[:, None] - positions[None, :]
    half, exact = _BUCKETS // 2, _BUCKETS // 4
    after = mx.where(distance < 0, half, 0)
    distance = mx.abs(distance)
    ratio = mx.log(mx.maximum(distance, 1).astype(mx.float32) / exact)
    far = exact + (ratio / math.log(_MAX_DISTANCE / exact) * (half - exact)).astype(mx.int32)
    return after + mx.where(distance < exact, distance, mx.minimum(far, half - 1))
