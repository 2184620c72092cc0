"""A batch's cache whose rows may have images; see `BatchCache`."""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlxmesh_engine.cache.kv_cache import BatchCache
from mlxmesh_engine.vision.model import Positions


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedPrompt:
    """What prefill needs of a prompt with images."""

    images: tuple[tuple[int, mx.array], ...]
    """Where each image starts, and the embeddings (1, tokens, dims) of its tokens."""
    positions: Positions | None
    """Of every token (3, length); None if they are the places of the tokens."""

    @property
    def shift(self) -> int:
        """What must be added to the place of a later token to get its position."""
        if self.positions is None:
            return 0
        return int(self.positions.max()) + 1 - self.positions.shape[1]

    def positions_of(self, start: int, stop: int) -> Positions | None:
        """Of these tokens, of which some may follow the prompt."""
        if self.positions is None:
            return None
        end = self.positions.shape[1]
        after = np.arange(max(start, end), max(stop, end), dtype=np.int32) + np.int32(self.shift)
        return np.concatenate(
            [self.positions[:, start:stop], np.broadcast_to(after, (3, len(after)))], axis=1
        )

    def embeddings_of(self, start: int, text: mx.array) -> mx.array:
        """text: the embeddings (1, length, dims) of tokens from `start` on, without images."""
        stop = at = start + text.shape[1]
        parts: list[mx.array] = []
        for first, image in reversed(self.images):
            low, high = max(first, start), min(first + image.shape[1], stop)
            if low < high:
                parts += [text[:, high - start : at - start], image[:, low - first : high - first]]
                at = low
        parts.append(text[:, : at - start])
        return mx.concatenate(parts[::-1], axis=1)


@dataclass(slots=True)
class _Row:
    prompt: EmbeddedPrompt | None = None
    prefilled: int = 0
    """How many tokens it holds; counted only while it has a prompt."""
    shift: int = 0


class ImageRowsCache(BatchCache):
    """Rows move with what is known of their images; copies of a row share it."""

    _images: list[_Row]
    _shifts: mx.array | None

    def set_prompts(
        self, prompts: Sequence[EmbeddedPrompt | None], prefilled: Sequence[int]
    ) -> None:
        """Once, for a new cache. prefilled: how many tokens each row holds."""
        self._images = [
            _Row(prompt, count, prompt.shift if prompt else 0)
            for prompt, count in zip(prompts, prefilled, strict=True)
        ]
        self._shifts = None

    def prompt_of(self, row: int) -> EmbeddedPrompt | None:
        return self._images[row].prompt

    def advance(self, row: int, tokens: int) -> int:
        """Counts appended tokens; returns how many the row held before."""
        held = self._images[row].prefilled
        self._images[row].prefilled += tokens
        return held

    def forget_prompts(self) -> None:
        """Frees what only prefill needs."""
        for row in self._images:
            row.prompt = None

    @property
    def shifts(self) -> mx.array | None:
        """What to add to the positions of each row (rows,); None for nothing."""
        if self._shifts is None and any(row.shift for row in self._images):
            self._shifts = mx.array([row.shift for row in self._images], mx.int32)
        return self._shifts

    @property
    def has_states(self) -> bool:
        """No: a state does not say how many tokens of an image it holds."""
        return False

    def copy_rows(self, rows: Sequence[int]) -> "ImageRowsCache":
        copied = super().copy_rows(rows)
        made = ImageRowsCache(copied.layers, copied.rows)
        made._images = [_Row(shift=self._images[row].shift) for row in rows]
        made._shifts = None
        return made

    def extend(self, other: "BatchCache") -> None:
        assert isinstance(other, ImageRowsCache)
        super().extend(other)
        self._images += other._images
        self._shifts = None

    def filter(self, rows: Sequence[int]) -> None:
        super().filter(rows)
        self._images = [self._images[row] for row in rows]
        self._shifts = None
