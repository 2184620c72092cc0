"""The forward pass of a model that sees; implements `Forward`."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import mlx.core as mx

from mlxmesh_engine.adapters.none import NoAdapters
from mlxmesh_engine.cache.kv_cache import Batching, StoredLayers
from mlxmesh_engine.evaluation import evaluate, evaluate_async
from mlxmesh_engine.forward.forward_pass import feed
from mlxmesh_engine.scheduling.images import PromptImages
from mlxmesh_engine.vision.model import VisionModel
from mlxmesh_engine.vision.row_images import EmbeddedPrompt, ImageRowsCache


class VisionForward:
    """Images are embedded when their row begins; a prompt that has some is prefilled alone."""

    asynchronous = True
    interruptible = False

    def __init__(self, model: VisionModel, batching: Batching) -> None:
        self._model = model
        self._batching = batching
        self.adapters = NoAdapters("a model that reads images")

    def interrupt_when(self, wanted: Callable[[], bool] | None) -> None:
        """A launched graph cannot be stopped."""

    def new_cache(
        self,
        prefixes: Sequence[StoredLayers | None],
        images: Sequence[PromptImages | None] = (),
    ) -> ImageRowsCache:
        cache = ImageRowsCache.from_rows(self._model, prefixes, self._batching)
        assert isinstance(cache, ImageRowsCache)
        held = [prefix.layers[0].state[2] if prefix else 0 for prefix in prefixes]
        described = images or [None] * len(prefixes)
        prompts = [self._embed(*each) for each in zip(described, held, strict=True)]
        cache.set_prompts(prompts, held)
        return cache

    def prefill(self, rows: Sequence[Sequence[int]], cache: ImageRowsCache) -> None:
        # The scores are never evaluated, only the cache is.
        self._feed(rows, cache)
        evaluate_async(cache.arrays())

    def decode(self, inputs: mx.array, cache: ImageRowsCache) -> mx.array:
        return self._decode(inputs[:, None], cache)[:, -1]

    def decode_several(self, rows: Sequence[Sequence[int]], cache: ImageRowsCache) -> mx.array:
        return mx.flatten(
            self._decode(mx.array([list(row) for row in rows], mx.uint32), cache), 0, 1
        )

    def scores(self, rows: Sequence[Sequence[int]], cache: ImageRowsCache) -> list[mx.array]:
        scores = self._feed(rows, cache)
        evaluate_async(cache.arrays())
        return [scores[at, : len(row)] for at, row in enumerate(rows)]

    def _decode(self, inputs: mx.array, cache: ImageRowsCache) -> mx.array:
        cache.forget_prompts()
        layers = cast("list[Any]", cache.layers)
        return self._model.text_scores(inputs, layers, cache.shifts)

    def _embed(self, images: PromptImages | None, held: int) -> EmbeddedPrompt | None:
        if images is None:
            return None
        needed = [image for image in images.images if image.stop > held]
        embedded = [(image.start, self._model.embed_image(image.image)) for image in needed]
        # Now: a broken one must fail here, and its pixels take more memory than its embeddings.
        evaluate([embeddings for _, embeddings in embedded])
        return EmbeddedPrompt(tuple(embedded), self._model.positions(images))

    def _feed(self, rows: Sequence[Sequence[int]], cache: ImageRowsCache) -> mx.array:
        prompt = cache.prompt_of(0)
        if prompt is None:
            return feed(self._model, rows, cache)
        (tokens,) = rows
        start = cache.advance(0, len(tokens))
        embeddings = prompt.embeddings_of(start, self._model.embed_text(tokens))
        positions = prompt.positions_of(start, start + len(tokens))
        inputs = mx.array([list(tokens)], mx.uint32)
        return self._model.scores(inputs, embeddings, cast("list[Any]", cache.layers), positions)
