"""Reads images with a model's own processor; implements `ImageReader`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from mlx_vlm import utils
from numpy.typing import NDArray
from PIL import Image

from mlxmesh_engine.scheduling.images import ReadImage
from mlxmesh_engine.vision.image_file import decode
from mlxmesh_shared.errors import FeatureNotSupported, ImageInvalid, InvalidArgument
from mlxmesh_shared.host.json_file import UnusableJson, read_json_object

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}

_load_processor = cast("Callable[..., Any]", getattr(utils, "load_processor"))  # noqa: B009
_prepare_inputs = cast("Callable[..., Mapping[str, Any]]", getattr(utils, "prepare_inputs"))  # noqa: B009


class ModelImageReader:
    """Its first call, in `open`, tells how the processor treats a text with one image."""

    def __init__(self, processor: Any, image_token_id: int) -> None:
        """Raises: FeatureNotSupported."""
        self._processor = processor
        self.image_token_id = image_token_id
        tokenizer: Any = getattr(processor, "tokenizer", processor)
        self._token: str = tokenizer.convert_ids_to_tokens(image_token_id)
        # Some tokenizers put a token before every text, or after it.
        alone = [int(token) for token in tokenizer(self._token)["input_ids"]]
        if alone.count(image_token_id) != 1:
            raise FeatureNotSupported(
                f"the model's image token {self._token} is not one token of its tokenizer",
                field="model_dir",
            )
        at = alone.index(image_token_id)
        self._before, self._after = alone[:at], alone[at + 1 :]
        self._check(tokenizer)

    @classmethod
    def open(cls, model_dir: Path, config: Mapping[str, Any]) -> "ModelImageReader":
        """Raises: InvalidArgument, FeatureNotSupported."""
        _refuse_code(model_dir)
        token_id = config.get("image_token_id", config.get("image_token_index"))
        if not isinstance(token_id, int):
            raise FeatureNotSupported(
                "the model's config.json names no image_token_id, so the place of an image in a "
                "prompt is unknown",
                field="model_dir",
            )
        try:
            processor = _load_processor(model_dir, add_detokenizer=False, trust_remote_code=False)
        except Exception as error:
            raise InvalidArgument(
                f"the image processor of {model_dir.name} cannot be loaded: "
                f"{type(error).__name__}: {error}",
                field="model_dir",
            ) from error
        return cls(processor, token_id)

    def read(self, data: bytes) -> ReadImage:
        """Raises: ImageInvalid."""
        image = decode(data)
        try:
            return self._read(image)
        # Processors refuse some shapes, each with errors of its own.
        except Exception as error:
            raise ImageInvalid(
                f"the model's processor cannot read the image of {image.width} x {image.height} "
                f"pixels: {' '.join(str(error).split())[:200]}"
            ) from error

    def _read(self, image: Image.Image) -> ReadImage:
        made = _prepare_inputs(self._processor, images=[image], prompts=self._token)
        tokens = [int(token) for token in np.asarray(made["input_ids"])[0]]
        inputs: dict[str, NDArray[Any]] = {
            name: np.asarray(value)
            for name, value in made.items()
            if name not in _TEXT_INPUTS and value is not None
        }
        return ReadImage(tuple(tokens[len(self._before) : len(tokens) - len(self._after)]), inputs)

    def _check(self, tokenizer: Any) -> None:
        """Its tokens must be the same in every text: the first and the last must be special.

        Raises: FeatureNotSupported.
        """
        token_ids = self._read(Image.new("RGB", (64, 48))).token_ids
        added = set(cast("Mapping[int, Any]", tokenizer.added_tokens_decoder))
        if not token_ids or not {token_ids[0], token_ids[-1]} <= added:
            raise FeatureNotSupported(
                "the tokens of an image of this model depend on the text around it, so they cannot "
                "be put in place by the engine",
                field="model_dir",
            )


def _refuse_code(model_dir: Path) -> None:
    """Raises: FeatureNotSupported, InvalidArgument."""
    for name in _PROCESSOR_FILES:
        path = model_dir / name
        if not path.is_file():
            continue
        try:
            refers = "auto_map" in read_json_object(path)
        except UnusableJson as error:
            raise InvalidArgument(f"{path} {error}", field="model_dir") from error
        if refers:
            raise FeatureNotSupported(
                f"{path} refers to code in the model directory (auto_map), which is never run",
                field="model_dir",
            )
