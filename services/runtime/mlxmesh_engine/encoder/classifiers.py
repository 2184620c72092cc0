"""The heads of cross-encoders: hidden states to scores."""

from collections.abc import Callable, Mapping

import mlx.core as mx

from mlxmesh_engine.encoder.bidirectional import Linear, linear
from mlxmesh_engine.encoder.tokens import TokenBatch
from mlxmesh_engine.encoder.weights import Arrays
from mlxmesh_shared.errors import InvalidArgument

# The two linear layers of each head, and the function between them.
_HEADS: Mapping[str, tuple[str, Callable[[mx.array], mx.array], str]] = {
    "bert": ("pooler.dense", mx.tanh, "classifier"),
    "distilbert": ("pre_classifier", lambda x: mx.maximum(x, 0), "classifier"),
    "mpnet": ("classifier.dense", mx.tanh, "classifier.out_proj"),
    "roberta": ("classifier.dense", mx.tanh, "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", mx.tanh, "classifier.out_proj"),
}


class ClassifierHead:
    """The score of each row, from its first token: the logit of one class, or the difference of
    the logits of two; a `Head`.
    """

    def __init__(self, model_type: str, arrays: Arrays, labels: int) -> None:
        """Raises: InvalidArgument when weights are missing or of another shape."""
        inner, self._act, outer = _HEADS[model_type]
        try:
            self._inner: Linear = linear(arrays, inner)
            self._outer: Linear = linear(arrays, outer)
        except KeyError as error:
            raise InvalidArgument(
                f"the model's files have no tensor {error}", field="model_dir"
            ) from error
        if self._outer[0].shape[1] != labels:
            raise InvalidArgument(
                f"{outer} has {self._outer[0].shape[1]} rows for {labels} labels", field="model_dir"
            )

    @property
    def arrays(self) -> list[mx.array]:
        return [*self._inner, *self._outer]

    def __call__(self, hidden: mx.array, batch: TokenBatch) -> mx.array:
        inner = self._act(hidden[:, 0] @ self._inner[0] + self._inner[1])
        return difference(inner @ self._outer[0] + self._outer[1])


def difference(logits: mx.array) -> mx.array:
    """Scores (rows, 1) from the logits (rows, 1 or 2) of no and yes."""
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]
