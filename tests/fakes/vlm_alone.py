"""Greedy output of mlx-vlm itself, for comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.fakes.tiny_model import mx


class VlmAlone:
    """mlx-vlm's model and processor of a directory."""

    def __init__(self, path: Path) -> None:
        from mlx_vlm.utils import load

        loaded: Any = load(str(path))
        self._model, self._processor = loaded

    def chat(self, messages: list[dict[str, Any]], pictures: Sequence[Image.Image]) -> "Inputs":
        """A conversation in the form of OpenAI's, whose parts may be `{"type": "image"}`."""
        from mlx_vlm.utils import prepare_inputs

        text = self._processor.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        images = list(pictures) or None
        return Inputs(dict(prepare_inputs(self._processor, images=images, prompts=text)))

    def greedy(self, inputs: "Inputs", max_tokens: int) -> list[int]:
        from mlx_vlm.generate.ar import generate_step

        rest = {name: value for name, value in inputs.made.items() if name != "attention_mask"}
        ids, pixels = rest.pop("input_ids"), rest.pop("pixel_values", None)
        steps = generate_step(ids, self._model, pixels, None, max_tokens=max_tokens, **rest)
        return [int(np.array(token).item()) for token, _ in steps][:max_tokens]

    def text(self, token_ids: Sequence[int]) -> str:
        return self._processor.tokenizer.decode(token_ids, skip_special_tokens=True)


class Inputs:
    """What the processor makes of a prompt."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    @property
    def tokens(self) -> int:
        return int(mx.array(self.made["input_ids"]).shape[1])
