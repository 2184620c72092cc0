"""The requests of POST /v1/embeddings and POST /v1/rerank."""

from __future__ import annotations

from typing import Annotated, Literal

from mlxmesh_gateway.http.schema import Harmless, Schema
from mlxmesh_gateway.openai.schema import UInt32


class EmbeddingRequest(Schema):
    """Texts, or token ids, to embed."""

    model: str
    input: str | list[str] | list[UInt32] | list[list[UInt32]]
    dimensions: UInt32 | None = None
    encoding_format: Literal["float", "base64"] | None = None
    user: Annotated[str | None, Harmless()] = None


class RerankRequest(Schema):
    """Documents to order by how well they answer a query."""

    model: str
    query: str
    documents: list[str]
    top_n: UInt32 | None = None
    return_documents: bool | None = None
