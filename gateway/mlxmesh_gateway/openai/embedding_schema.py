"""The requests of POST /v1/embeddings and POST /v1/rerank.

The latter is in the shape of Jina's and Cohere's.
"""

from __future__ import annotations

from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, Field

from mlxmesh_gateway.http.schema import Harmless, Schema
from mlxmesh_gateway.openai.schema import ServiceTier, UInt32


class EmbeddingRequest(Schema):
    """Texts, or token ids, to embed."""

    model: str
    input: str | list[str] | list[UInt32] | list[list[UInt32]]
    dimensions: UInt32 | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str | None, Harmless()] = None
    # Below are options that OpenAI lacks, under their names in the contract.
    purpose: Literal["query", "document"] | None = None
    truncate: bool | None = None
    normalize: bool | None = None
    service_tier: ServiceTier | None = None


def _text_of(value: object) -> object:
    """The text of a document that is an object; anything else as it is."""
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, object]", value)
    return fields["text"] if set(fields) == {"text"} else fields


Document = Annotated[str, BeforeValidator(_text_of, json_schema_input_type=str | dict[str, str])]
"""A text, or an object with a text."""


class RerankRequest(Schema):
    """Documents to order by how well they answer a query."""

    model: str
    query: str
    documents: list[Document]
    top_n: Annotated[UInt32 | None, Field(json_schema_extra={"minimum": 1})] = None
    return_documents: bool | None = None
    """Default: true."""
    user: Annotated[str | None, Harmless()] = None
    # Below are options under their names in the contract.
    instruction: str | None = None
    truncate: bool | None = None
    service_tier: ServiceTier | None = None
