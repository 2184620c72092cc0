"""Hidden states and scores from decoders of mlx-lm."""

import importlib
from collections.abc import Mapping
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models.cache import KVCache

from mlxmesh_engine.encoder.bidirectional import Progress
from mlxmesh_engine.encoder.classifiers import difference
from mlxmesh_engine.encoder.pooling import last_token
from mlxmesh_engine.encoder.tokens import TokenBatch
from mlxmesh_engine.encoder.weights import Arrays
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.weights import parameters
from mlxmesh_shared.errors import InvalidArgument

_MODULES = {"mistral": "llama"}
_CHUNK_TOKENS = 512
"""Columns of a batch computed at once: bounds the memory for attention scores."""
_PREFIX = "model."
_SCORE = "score.weight"


class CausalModel:
    """Token batches to hidden states (rows, length, hidden).

    A token sees only those before it, so that padding after the end changes nothing.
    """

    def __init__(self, config: Mapping[str, Any], arrays: Arrays) -> None:
        """arrays: unpacked. Raises: InvalidArgument when some are missing or do not fit."""
        model_type = str(config["model_type"])
        family = importlib.import_module(f"mlx_lm.models.{_MODULES.get(model_type, model_type)}")
        plain = {key: value for key, value in config.items() if key != "quantization"}
        try:
            self._model: Any = family.Model(family.ModelArgs.from_dict(plain))
        except Exception as error:
            raise InvalidArgument(
                f"mlx-lm cannot load this model: {error}", field="model_dir"
            ) from error
        named = _named(arrays, self._model)
        self._tied = bool(getattr(self._model.args, "tie_word_embeddings", False))
        wanted = dict(parameters(self._model))
        for name, array in wanted.items():
            if name.startswith(_PREFIX) and name not in named:
                raise InvalidArgument(f"the model's files have no tensor {name}", field="model_dir")
            if name in named and named[name].shape != array.shape:
                raise InvalidArgument(
                    f"the tensor {name} has the shape {named[name].shape}, not {array.shape}",
                    field="model_dir",
                )
        self.has_logits = self._tied or "lm_head.weight" in named
        if "lm_head" in self._model and not self.has_logits:
            del self._model.lm_head
        self._model.load_weights([(n, a) for n, a in named.items() if n in wanted], strict=False)
        self._model.eval()
        self.classifier = named.get(_SCORE)

    @property
    def arrays(self) -> list[mx.array]:
        own = [array for _, array in parameters(self._model)]
        return own if self.classifier is None else [*own, self.classifier]

    def __call__(self, batch: TokenBatch, progress: Progress) -> mx.array:
        cache = [KVCache() for _ in self._model.layers]
        length = batch.token_ids.shape[1]
        chunks: list[mx.array] = []
        for start in range(0, length, _CHUNK_TOKENS):
            chunk = batch.token_ids[:, start : start + _CHUNK_TOKENS]
            chunks.append(self._model.model(chunk, cache))
            evaluate([chunks[-1]])
            progress()
        return chunks[0] if len(chunks) == 1 else mx.concatenate(chunks, axis=1)

    def logits(self, hidden: mx.array) -> mx.array:
        """The logits (rows, vocab) of hidden states (rows, hidden)."""
        if self._tied:
            return self._model.model.embed_tokens.as_linear(hidden)
        return self._model.lm_head(hidden)


class AnswerHead:
    """The score of each row: the difference of the logits of two tokens after its last one, or the
    logit of one; a `Head`.
    """

    def __init__(self, model: CausalModel, answers: tuple[int, int | None]) -> None:
        """Raises: InvalidArgument if the model has no language model's head."""
        if not model.has_logits:
            raise InvalidArgument("the model's files have no lm_head.weight", field="model_dir")
        self._model = model
        self._yes, self._no = answers
        self.arrays: list[mx.array] = []

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        logits = self._model.logits(last_token(hidden, batch))
        yes = logits[:, self._yes, None]
        return yes if self._no is None else yes - logits[:, self._no, None]


class CausalClassifierHead:
    """The score of each row from a classifier on its last token; a `Head`."""

    def __init__(self, model: CausalModel, labels: int) -> None:
        """Raises: InvalidArgument if its weights are missing or of another shape."""
        weight = model.classifier
        if weight is None or weight.shape[0] != labels:
            raise InvalidArgument(
                f"the model's files have no {_SCORE} for {labels} labels", field="model_dir"
            )
        self._weight = weight.T
        self.arrays: list[mx.array] = []

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        return difference(last_token(hidden, batch) @ self._weight)


def _named(arrays: Arrays, model: nn.Module) -> Arrays:
    """The arrays under mlx-lm's names: files of a bare model have no prefix."""
    heads = ("lm_head.", "score.")
    if not any(name.startswith(_PREFIX) for name in arrays):
        arrays = {
            name if name.startswith(heads) else f"{_PREFIX}{name}": array
            for name, array in arrays.items()
        }
    sanitize = getattr(model, "sanitize", None)
    return sanitize(dict(arrays)) if sanitize is not None else arrays
