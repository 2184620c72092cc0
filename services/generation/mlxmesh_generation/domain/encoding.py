"""Requests for vectors and for the relevance of documents, and their results. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from mlxmesh_generation.domain.catalogue import ModelVersion
from mlxmesh_generation.domain.routing import Asker
from mlxmesh_shared.reference import ModelReference

EmbedInput = str | Sequence[int]
"""A text, or token ids."""


class Purpose(Enum):
    """What a text is embedded for."""

    NONE = "none"
    QUERY = "query"
    DOCUMENT = "document"


class Encoding(Enum):
    """What an engine computes of each input."""

    VECTOR = "vector"
    SCORE = "score"


class EncoderInput(NamedTuple):
    """One text or one pair of texts, as an engine gets it."""

    token_ids: Sequence[int]
    second_start: int = 0
    """Where the second text begins, for models that tell texts apart; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class EncodingRequest:
    """What every request has."""

    request_id: str
    model: ModelReference
    truncate: bool = False
    """Cuts what exceeds the model's context."""
    flex: bool = False
    """Whether it runs only with what other requests leave, at half the price."""
    caller: str = ""
    """The key of fair shares."""
    owner: str = ""
    message_bytes: int = 0
    """The encoded size of the request."""

    @property
    def principal(self) -> str:
        """Who asks, without a name that it only claims."""
        return self.owner.partition("#")[0]

    @property
    def asker(self) -> Asker:
        """What splits assign it by."""
        return Asker(self.request_id, self.principal)


@dataclass(frozen=True, kw_only=True)
class EmbedRequest(EncodingRequest):
    """Texts to embed."""

    inputs: tuple[EmbedInput, ...]
    dimensions: int | None = None
    """How many components of each vector to return; None for all."""
    purpose: Purpose = Purpose.NONE
    normalize: bool | None = None
    """Whether vectors have length 1; None where the model's files decide."""


@dataclass(frozen=True, kw_only=True)
class RerankRequest(EncodingRequest):
    """A query, and documents to order by their relevance to it."""

    query: str
    documents: tuple[str, ...]
    top_n: int | None = None
    instruction: str = ""


@dataclass(frozen=True)
class Embedded:
    """A vector for each input, in order."""

    version: ModelVersion
    vectors: Sequence[Sequence[float]]
    prompt_tokens: int


@dataclass(frozen=True)
class Relevance:
    """One document of a request."""

    index: int
    score: float
    """0 to 1."""


@dataclass(frozen=True)
class Reranked:
    """The most relevant documents first."""

    version: ModelVersion
    results: Sequence[Relevance]
    prompt_tokens: int
