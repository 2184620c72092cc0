"""A model's tokenizer as llguidance needs it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from llguidance import LLTokenizer
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mlxmesh_shared.errors import FeatureNotSupported

WORD_BITS = 32


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens that a grammar may allow."""

    tokenizer: LLTokenizer
    known: NDArray[np.int32]
    """A mask of the ids that the tokenizer has; a model may have more."""


def mask_words(vocab_size: int) -> int:
    """The length of a mask with one bit for each token."""
    return -(-vocab_size // WORD_BITS)


def mask_of(ids: list[int], vocab_size: int) -> NDArray[np.int32]:
    """A mask of these ids; those outside the vocabulary are left out."""
    bits = np.zeros(mask_words(vocab_size) * WORD_BITS, np.uint8)
    bits[[token_id for token_id in ids if token_id < vocab_size]] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def load_vocabulary(
    model_dir: Path, *, vocab_size: int, eos_token_ids: frozenset[int]
) -> Vocabulary:
    """Reads the tokenizer; takes up to seconds.

    Raises: FeatureNotSupported if grammars cannot be applied to this model.
    """
    path = model_dir / "tokenizer.json"
    if not path.is_file():
        raise _not_supported("is not a tokenizer.json")
    ends = sorted(token_id for token_id in eos_token_ids if token_id < vocab_size)
    if not ends:
        raise _not_supported("has no end token in the model's config.json")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:
        raise _not_supported(f"cannot be read: {_first_line(error)}") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    try:
        compiled = LLTokenizer(tokenizer.to_str(), n_vocab=vocab_size, eos_token=ends)
    except ValueError as error:
        raise _not_supported(f"does not work with grammars: {_first_line(error)}") from error
    ids = list(tokenizer.get_vocab(with_added_tokens=True).values())
    return Vocabulary(compiled, mask_of(ids, vocab_size))


def _not_supported(what: str) -> FeatureNotSupported:
    return FeatureNotSupported(
        f"this model's tokenizer {what}; send no grammar to this model", field="constraint"
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
