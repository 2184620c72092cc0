"""Images of prompts: as files, read for a model, and in place of their tokens. Pure: no MLX."""

import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from numpy.typing import NDArray

_FIRST_ID, _END_ID = 2**31, 2**32
_MAX_KNOWN = 65_536


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image as it was sent, and the index of the prompt's token that stands for it."""

    data: bytes
    position: int

    @property
    def digest(self) -> bytes:
        return sha256(self.data).digest()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ReadImage:
    """What a model gets for one image."""

    token_ids: tuple[int, ...]
    """The tokens that replace the one that stands for the image."""
    inputs: Mapping[str, NDArray[Any]]
    """Pixels, and what the model's processor says of them; by the names that the model knows."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.inputs.values())


class ImageReader(Protocol):
    """Turns files into what one model gets; not on the MLX thread, one call at a time."""

    image_token_id: int
    """The token that stands for an image."""

    def read(self, data: bytes) -> ReadImage:
        """Raises: ImageInvalid."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PromptImage:
    """An image at its place in the expanded prompt."""

    start: int
    image: ReadImage

    @property
    def stop(self) -> int:
        return self.start + len(self.image.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class PromptImages:
    """The images of one prompt, in order, all of which are expanded."""

    images: tuple[PromptImage, ...]
    token_ids: tuple[int, ...]
    """The whole prompt."""
    prefix_ids: tuple[int, ...]
    """The prompt with ids above every token's in place of images: equal only for equal images."""

    def prefix_ids_of(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The same for tokens that begin with this prompt, or that begin it."""
        return (*self.prefix_ids, *tokens[len(self.prefix_ids) :])[: len(tokens)]


class ImageIds:
    """Numbers the tokens of images by content, so that prefixes with images can be cached.

    Two images never have a number in common. An image that is forgotten gets new numbers.
    """

    def __init__(self, *, end_id: int = _END_ID, max_known: int = _MAX_KNOWN) -> None:
        self._end_id = end_id
        self._max_known = max_known
        self._restart()

    def _restart(self) -> None:
        # Numbers mean something in one process only, whatever outlives it.
        self.namespace = b"images:" + secrets.token_bytes(16)
        self._next_id = _FIRST_ID
        self._known: OrderedDict[tuple[bytes, int], int] = OrderedDict()

    def reserve(self, tokens: int) -> None:
        """Makes room for so many new numbers; may change the namespace."""
        if self._next_id + tokens > self._end_id:
            self._restart()

    def of(self, digest: bytes, tokens: int) -> range:
        """The numbers of an image with this digest that takes so many tokens."""
        first = self._known.get((digest, tokens))
        if first is None:
            first, self._next_id = self._next_id, self._next_id + tokens
            self._known[digest, tokens] = first
            if len(self._known) > self._max_known:
                self._known.popitem(last=False)
        self._known.move_to_end((digest, tokens))
        return range(first, first + tokens)


def expand(
    prompt: Sequence[int], files: Sequence[ImageFile], read: Sequence[ReadImage], ids: ImageIds
) -> PromptImages:
    """The prompt with each image's tokens in place of the one that stands for it."""
    ids.reserve(sum(len(image.token_ids) for image in read))
    tokens: list[int] = []
    prefix: list[int] = []
    placed: list[PromptImage] = []
    end = 0
    for file, image in zip(files, read, strict=True):
        before = prompt[end : file.position]
        tokens += before
        prefix += before
        placed.append(PromptImage(len(tokens), image))
        tokens += image.token_ids
        prefix += ids.of(file.digest, len(image.token_ids))
        end = file.position + 1
    return PromptImages(tuple(placed), (*tokens, *prompt[end:]), (*prefix, *prompt[end:]))
