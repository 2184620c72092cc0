"""A vision-language model of mlx-vlm: text, and embeddings of images, to scores."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import mlx.core as mx
import numpy as np
from mlx import nn
from numpy.typing import NDArray

from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.scheduling.images import PromptImages, ReadImage
from mlxmesh_shared.errors import FeatureNotSupported

# What a model may add to the embeddings of a prompt with images; everything else is refused.
_KNOWN_FEATURES = {"inputs_embeds", "position_ids", "rope_deltas"}
Positions = NDArray[np.int32]
"""Of tokens (3, length): time, height and width."""


class VisionModel:
    """Used on the MLX thread. As a model of mlx-lm, it computes text: `MlxModel`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = cast("Any", model)
        self._language = self._model.language_model
        self.layers: Any = self._language.layers
        self.three_positions = False
        """Whether a token has three positions, which images set; else its place is its position."""
        if hasattr(self._language, "make_cache"):
            self.make_cache = self._language.make_cache

    def __call__(self, inputs: mx.array, *, cache: list[Any]) -> mx.array:
        """Scores of text (rows, length, vocab), whose positions follow those in the cache."""
        return self.text_scores(inputs, cache)

    def text_scores(
        self, inputs: mx.array, cache: list[Any], shifts: mx.array | None = None
    ) -> mx.array:
        """As a call. shifts: what to add to the positions of each row (rows,)."""
        if not self.three_positions:
            return self._language(inputs, cache=cache).logits
        rows, length = inputs.shape
        first = mx.expand_dims(mx.flatten(mx.array(cache[0].offset)), 1)
        if shifts is not None:
            first = first + shifts[:, None]
        positions = mx.broadcast_to(first + mx.arange(length)[None], (rows, length))
        return self._scored(inputs, None, cache, mx.broadcast_to(positions, (3, rows, length)))

    def scores(
        self, inputs: mx.array, embeddings: mx.array, cache: list[Any], positions: Positions | None
    ) -> mx.array:
        """Scores (1, length, vocab) of one row with these embeddings (1, length, dims)."""
        at = None if positions is None else mx.array(positions)[:, None]
        return self._scored(inputs, embeddings, cache, at)

    def _scored(
        self,
        inputs: mx.array,
        embeddings: mx.array | None,
        cache: list[Any],
        positions: mx.array | None,
    ) -> mx.array:
        options = {} if positions is None else {"position_ids": positions}
        return self._language(inputs, inputs_embeds=embeddings, cache=cache, **options).logits

    def embed_text(self, token_ids: Sequence[int]) -> mx.array:
        """The embeddings (1, length, dims) of tokens without images."""
        return self._features(token_ids, {})["inputs_embeds"]

    def embed_image(self, image: ReadImage) -> mx.array:
        """The embeddings (1, length, dims) of an image's tokens; computed when evaluated."""
        return self._features(image.token_ids, image.inputs)["inputs_embeds"]

    def positions(self, images: PromptImages) -> Positions | None:
        """Of every token of a prompt; None if they are the places of the tokens."""
        if not self.three_positions:
            return None
        grids = [image.image.inputs["image_grid_thw"] for image in images.images]
        ids = mx.array([images.token_ids], mx.int32)
        found, _ = self._language.get_rope_index(ids, mx.array(np.concatenate(grids)))
        evaluate([found])
        return np.asarray(found)[:, 0].astype(np.int32)

    def check(self, token_ids: Sequence[int], image: ReadImage) -> None:
        """Finds out how this model treats a prompt that has an image.

        Raises: FeatureNotSupported if that cannot be computed in a batch of sequences.
        """
        features = self._features(token_ids, image.inputs)
        self.three_positions = features.get("position_ids") is not None
        if unknown := sorted(set(features) - _KNOWN_FEATURES):
            raise FeatureNotSupported(
                f"this model needs {', '.join(unknown)} beside the embeddings of its prompt, which "
                "the engine cannot keep for each sequence",
                field="model_dir",
            )

    def reference_scores(self, token_ids: Sequence[int], image: ReadImage) -> mx.array:
        """Scores (vocab,) after a prompt with one image, by mlx-vlm alone."""
        options = _arrays(image.inputs)
        made = self._model(
            mx.array([list(token_ids)]), options.pop("pixel_values"), mask=None, **options
        )
        return made.logits[0, -1]

    def _features(
        self, token_ids: Sequence[int], inputs: Mapping[str, NDArray[Any]]
    ) -> dict[str, Any]:
        options = _arrays(inputs)
        pixels = options.pop("pixel_values", None)
        made = self._model.get_input_embeddings(mx.array([list(token_ids)]), pixels, **options)
        found = cast("dict[str, Any]", vars(made))
        return {name: value for name, value in found.items() if value is not None}


def _arrays(inputs: Mapping[str, NDArray[Any]]) -> dict[str, mx.array]:
    return {name: mx.array(array) for name, array in inputs.items()}
