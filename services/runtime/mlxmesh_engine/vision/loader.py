"""Loads a model that sees by mlx-vlm's loader, and tests that batches do not change its scores."""

import io
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import mlx.core as mx
from mlx import nn
from mlx_vlm import utils
from PIL import Image

from mlxmesh_engine.cache.kv_cache import Batching
from mlxmesh_engine.evaluation import evaluate
from mlxmesh_engine.forward.batch_trial import BatchTrial, difference
from mlxmesh_engine.forward.loader import LoadedModel, load
from mlxmesh_engine.forward.model_config import read_config
from mlxmesh_engine.forward.prepare import PreparedForward, not_quantizable
from mlxmesh_engine.forward.weights import parameters
from mlxmesh_engine.scheduling.images import ImageFile, ImageIds, PromptImages, expand
from mlxmesh_engine.vision.forward import VisionForward
from mlxmesh_engine.vision.model import VisionModel
from mlxmesh_engine.vision.reader import ModelImageReader
from mlxmesh_shared.errors import FeatureNotSupported

_load_model = cast("Callable[..., nn.Module]", getattr(utils, "load_model"))  # noqa: B009
_load_config = cast("Callable[[Path], dict[str, Any]]", getattr(utils, "load_config"))  # noqa: B009

# Relative to the spread of the scores, as for batches: see `batch_trial`.
_TOLERANCE, _NARROW_TOLERANCE = 0.01, 0.05
_TEXT = (1, 2, 3)

_log = logging.getLogger(__name__)


def load_vision(model_dir: Path, **options: Any) -> LoadedModel:
    """options: those of `load`. Raises: as `load`."""
    if options.get("kv_cache_type", "full") != "full":
        raise not_quantizable("mlx-vlm's pass serves it")
    config = read_config(model_dir)
    reader: list[ModelImageReader] = []

    def prepare(model: nn.Module, dtype: str) -> PreparedForward:
        # Only now: loading a model makes its processor known to transformers.
        reader.append(ModelImageReader.open(model_dir, config))
        return _prepare(model, dtype, reader[0], config)

    loaded = load(model_dir, read=_read, prepare=prepare, **options)
    return replace(loaded, image_reader=reader[0])


def _read(model_dir: Path) -> tuple[nn.Module, dict[str, Any]]:
    # First: loading changes the configuration that it is given.
    config = _load_config(model_dir)
    return _load_model(model_dir, lazy=True), config


def _prepare(
    model: nn.Module, dtype: str, reader: ModelImageReader, config: dict[str, Any]
) -> PreparedForward:
    """Raises: FeatureNotSupported."""
    weights_bytes = sum(array.nbytes for _, array in parameters(model))
    vision, images = VisionModel(model), _example(reader, config)
    narrow = dtype != "float32"
    trial = _ImageTrial(vision, images, _NARROW_TOLERANCE if narrow else _TOLERANCE)
    trial.check_alone()
    texts = BatchTrial(vision, narrow=narrow)
    batching = texts.best()
    if batching is not Batching.ALONE and (problem := trial.problem(batching)):
        _log.warning("sequences run one after another: images in batches fail: %s", problem)
        batching = Batching.ALONE
    return PreparedForward(
        VisionForward(vision, batching),
        batching,
        texts.vocab_size,
        texts.token_bytes,
        weights_bytes,
    )


def _example(reader: ModelImageReader, config: dict[str, Any]) -> PromptImages:
    """A short prompt with a picture."""
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((96, 64)).save(picture, "PNG")
    data = picture.getvalue()
    start = config.get("vision_start_token_id")
    before = [*_TEXT, start] if isinstance(start, int) else [*_TEXT]
    files = [ImageFile(data, len(before))]
    prompt = [*before, reader.image_token_id, *_TEXT]
    return expand(prompt, files, [reader.read(data)], ImageIds())


@dataclass(frozen=True, slots=True)
class _ImageTrial:
    """Compares the scores after a prompt with a picture to those of mlx-vlm alone."""

    model: VisionModel
    prompt: PromptImages
    tolerance: float

    def check_alone(self) -> None:
        """Raises: FeatureNotSupported."""
        try:
            self.model.check(self.prompt.token_ids, self.prompt.images[0].image)
            problem = self._difference(self._scores_alone())
        except FeatureNotSupported:
            raise
        # A model may raise anything.
        except Exception as error:
            raise FeatureNotSupported(
                f"this model cannot compute an image here: {type(error).__name__}: {error}"
            ) from error
        if problem:
            raise FeatureNotSupported(f"this model's images cannot be served: {problem}")

    def problem(self, batching: Batching) -> str:
        """Why its rows must not be in a batch with text; empty if they may be."""
        try:
            return self._difference(self._scores_batched(batching))
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            return f"{type(error).__name__}: {error}"

    def _difference(self, scores: mx.array) -> str:
        expected = self.model.reference_scores(self.prompt.token_ids, self.prompt.images[0].image)
        differs = difference(_evaluated(expected), scores) > self.tolerance
        return "the scores differ from those of mlx-vlm" if differs else ""

    def _scores_alone(self) -> mx.array:
        """In two pieces that cut the picture."""
        forward, tokens = VisionForward(self.model, Batching.ALONE), self.prompt.token_ids
        cache = forward.new_cache([None], [self.prompt])
        cut = self.prompt.images[0].start + 1
        forward.prefill([tokens[:cut]], cache)
        return _evaluated(forward.scores([tokens[cut:]], cache)[0][-1])

    def _scores_batched(self, batching: Batching) -> mx.array:
        forward, tokens = VisionForward(self.model, batching), self.prompt.token_ids
        cache = forward.new_cache([None], [None])
        forward.prefill([_TEXT], cache)
        joining = forward.new_cache([None], [self.prompt])
        forward.prefill([tokens[:-2]], joining)
        cache.extend(joining)
        # Several at once, as proposed tokens are verified.
        several = [[_TEXT[-1], _TEXT[0]], [*tokens[-2:]]]
        return _evaluated(forward.decode_several(several, cache)[-1])


def _evaluated(scores: mx.array) -> mx.array:
    scores = scores.astype(mx.float32)
    evaluate([scores])
    return scores
