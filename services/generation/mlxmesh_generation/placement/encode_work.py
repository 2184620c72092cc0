"""What an engine is given to encode, and what it returns."""

from collections.abc import Sequence
from typing import NamedTuple

from mlxmesh_generation.domain.encoding import EncoderInput, Encoding


class EncodeWork(NamedTuple):
    """Texts for one engine."""

    inputs: Sequence[EncoderInput]
    encoding: Encoding
    caller: str
    flex: bool = False
    metadata: tuple[tuple[str, str], ...] = ()
    """Of the call: the parent of the engine's spans."""


class EncodedPart(NamedTuple):
    """The results of some texts, in order: vectors or scores."""

    vectors: Sequence[Sequence[float]]
    scores: Sequence[float]
